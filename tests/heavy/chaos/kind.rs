//! The affinities, as the gateway's file configures them.

/// The key of all tokens.
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
    /// The id names the backend.
    Route,
    Envelope,
    /// The path of a resource that the application has created.
    Location,
}

/// Where the pin of a session is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// At the client.
    WithClients,
    /// In the memory of the gateway.
    Gone,
    /// In a store that is written after the response: the gateway may be killed before.
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
            // Redis is available all the time. A busy machine may still need longer than the default of 5 ms,
            // and the behaviour of a gateway then is not tested here.
            Self::LearnedOnRedis(url) => format!(
                "type = \"learned\"\ncookie = \"JSESSIONID\"\nkeys = [\"{KEY}\"]\nstore = \"{url}\"\n\
                 store_timeout = \"1s\""
            ),
            Self::Key => "type = \"key\"\nheader = \"x-user\"".to_owned(),
            Self::Route => "type = \"route\"\nheader = \"x-user\"\nseparator = \".\"".to_owned(),
            Self::Location => "type = \"learned\"\nlocation = \"/files/{id}\"".to_owned(),
            Self::Envelope => {
                format!("type = \"envelope\"\ncookie = \"JSESSIONID\"\nkeys = [\"{KEY}\"]")
            }
        };
        format!("[[affinity]]\n{lines}\n")
    }

    /// Whether a session begins when the application issues its id.
    pub fn needs_login(&self) -> bool {
        matches!(self, Self::Learned | Self::LearnedOnRedis(_) | Self::Envelope | Self::Location)
    }

    /// What the gateway knows of its sessions after a restart.
    pub fn memory(&self) -> Memory {
        match self {
            Self::Learned | Self::Location => Memory::Gone,
            Self::LearnedOnRedis(_) => Memory::WrittenBehind,
            _ => Memory::WithClients,
        }
    }
}
