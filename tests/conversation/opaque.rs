//! Conversations of which nothing is known but whose turn it is.

use proptest::{collection::vec, prelude::*};
use tracer_user::protocol::Flow;

use super::{Conversation, Script};

pub fn conversation() -> impl Strategy<Value = Conversation> {
    let turn = || vec(any::<u8>(), 1..300);
    vec((turn(), turn()), 1..8).prop_map(|turns| {
        let mut script = Script::default();
        for (request, response) in turns {
            // One byte of a turn tells that there is one.
            script.unannounced(Flow::Request, &request, 1, "turn (target -, to -)");
            script.unannounced(Flow::Response, &response, 1, "-");
        }
        script.finish()
    })
}
