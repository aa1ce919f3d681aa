//! The ways to recognise a session, as the gateway's file has them.

/// The key under which everything is sealed.
const KEY: &str = "base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Sealed,
    Header,
    /// In the gateway's memory.
    Learned,
    /// On a Redis with this address.
    LearnedOnRedis(String),
    Key,
    Envelope,
}

/// Where it is remembered which backend a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// With the clients.
    WithClients,
    /// In the gateway, which forgets it with its end.
    Gone,
    /// In a store, which is told just after an answer: what happens to the gateway then may be quicker.
    WrittenBehind,
}

impl Kind {
    /// The section of the file.
    pub fn section(&self) -> String {
        let lines = match self {
            Self::Plain => "type = \"cookie\"\nformat = \"plain\"".to_owned(),
            Self::Sealed => format!("type = \"cookie\"\nkeys = [\"{KEY}\"]"),
            Self::Header => format!("type = \"header\"\nname = \"x-sticky\"\nkeys = [\"{KEY}\"]"),
            Self::Learned => "type = \"learned\"\ncookie = \"JSESSIONID\"".to_owned(),
            // Redis is well all the time. A machine that is busy may take longer than the usual 5 ms all the
            // same, and what a gateway does then is not tested here.
            Self::LearnedOnRedis(url) => format!(
                "type = \"learned\"\ncookie = \"JSESSIONID\"\nkeys = [\"{KEY}\"]\nstore = \"{url}\"\n\
                 store_timeout = \"1s\""
            ),
            Self::Key => "type = \"key\"\nheader = \"x-user\"".to_owned(),
            Self::Envelope => {
                format!("type = \"envelope\"\ncookie = \"JSESSIONID\"\nkeys = [\"{KEY}\"]")
            }
        };
        format!("[[affinity]]\n{lines}\n")
    }

    /// Whether a session begins when the application issues its id.
    pub fn needs_login(&self) -> bool {
        matches!(self, Self::Learned | Self::LearnedOnRedis(_) | Self::Envelope)
    }

    /// What the gateway knows of its sessions when it is restarted.
    pub fn memory(&self) -> Memory {
        match self {
            Self::Learned => Memory::Gone,
            Self::LearnedOnRedis(_) => Memory::WrittenBehind,
            _ => Memory::WithClients,
        }
    }
}
