//! The ABI: the only definition of bytes that cross the boundary between the probes and user space.
//!
//! Plain `#[repr(C)]` structs without padding, of a size that a test pins; numbers in the byte order of the
//! machine; times in nanoseconds of boot time (`CLOCK_BOOTTIME`) at the exit of the call unless a field says
//! otherwise. Discriminants travel as integers: user space turns them into enums with an explicit unknown path.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub use abi::*;
