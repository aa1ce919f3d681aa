//! Where the route stands in an id.

use super::super::token_options::invalid;
use crate::error::ConfigError;

/// The part of an id that is its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The whole id.
    Whole,
    /// What follows after the separator.
    After(char),
    /// What stands before the separator.
    Before(char),
}

impl Part {
    /// Checks the separator.
    pub(super) fn check(self, carrier: &str) -> Result<(), ConfigError> {
        match self {
            Self::After(separator) | Self::Before(separator)
                if !separator.is_ascii_punctuation() =>
            {
                let why = format!(
                    "the separator {separator:?} is no punctuation character of ASCII; use one that is neither a letter nor a \
                     digit, such as '.'"
                );
                Err(invalid(carrier, &why))
            }
            _ => Ok(()),
        }
    }

    /// Calls `visit` with each part of `id` that may be the route, the longest first, until it returns a value. Parts
    /// that are longer than `longest` are left out.
    #[inline]
    pub(super) fn find<B>(
        self,
        id: &[u8],
        longest: usize,
        visit: impl FnMut(&[u8]) -> Option<B>,
    ) -> Option<B> {
        // The separator itself, too.
        let edge = id.len().min(longest + 1);
        match self {
            Self::Whole => Some(id).filter(|id| id.len() <= longest).and_then(visit),
            Self::After(separator) => {
                let tail = &id[id.len() - edge..];
                let separators = memchr::memchr_iter(separator as u8, tail);
                separators.map(|at| &tail[at + 1..]).find_map(visit)
            }
            Self::Before(separator) => {
                let head = &id[..edge];
                let separators = memchr::memrchr_iter(separator as u8, head);
                separators.map(|at| &head[..at]).find_map(visit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(part: Part, id: &str) -> Vec<String> {
        let mut parts = Vec::new();
        part.find(id.as_bytes(), 6, |part| {
            parts.push(String::from_utf8(part.to_vec()).unwrap());
            None::<()>
        });
        parts
    }

    #[test]
    fn the_longest_part_comes_first() {
        assert_eq!(parts(Part::After('.'), "0A.b.c"), ["b.c", "c"]);
        assert_eq!(parts(Part::Before('~'), "a~b~0A"), ["a~b", "a"]);
        assert_eq!(parts(Part::Whole, "a.b"), ["a.b"]);
        assert!(parts(Part::After('.'), "0A").is_empty());
    }

    #[test]
    fn long_parts_are_left_out() {
        assert_eq!(parts(Part::After('.'), "x.1234567"), Vec::<String>::new());
        assert_eq!(parts(Part::After('.'), "xxxxxxxxx.123456"), ["123456"]);
        assert_eq!(parts(Part::Before('.'), "1234567.x"), Vec::<String>::new());
        assert_eq!(parts(Part::Before('.'), "123456.xxxxxxxx"), ["123456"]);
        assert!(parts(Part::Whole, "1234567").is_empty());
    }

    #[test]
    fn separators_are_checked() {
        for separator in ['a', '7', ' ', 'é', '\n'] {
            assert!(Part::After(separator).check("x").is_err(), "{separator:?}");
        }
        assert!(Part::Before('~').check("x").is_ok());
        assert!(Part::Whole.check("x").is_ok());
    }
}
