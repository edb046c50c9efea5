//! Encodings that several protocols share, or that stand on their own: no protocol stands here.

pub mod chunked;
pub mod dns;
pub mod events;
pub mod frame;
pub mod head;
pub mod hpack;
mod huffman;
pub mod interim;
pub mod messages;
pub mod mysql;
pub mod pseudo;
pub mod redis_commands;
pub mod redis_flight;
pub mod redis_statement;
pub mod resp;
pub mod sql;
pub mod trace_id;
