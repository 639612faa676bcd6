//! What an entry of a control topic is.

use serde::{Deserialize, Serialize};

/// Something that lives under a key of a control topic.
pub trait Entry: Serialize + for<'de> Deserialize<'de> {
    /// The first segment of the key.
    const KIND: &'static str;
    fn key(&self) -> String;
}
