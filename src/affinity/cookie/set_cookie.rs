//! The `Set-Cookie` field of the token: its attributes, and the backend's cookies of the same name.

use std::time::{Duration, SystemTime};

use cookie::{Cookie, CookieBuilder, time::OffsetDateTime};
use http::{
    HeaderMap, HeaderValue,
    header::{Entry, SET_COOKIE},
};

use crate::{
    affinity::{SameSite, Secure},
    error::ConfigError,
};

/// The name and attributes of the cookie.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: SameSite,
    pub(crate) secure: Secure,
    pub(crate) http_only: bool,
    pub(crate) partitioned: bool,
    /// Whether `Expires` is written beside `Max-Age`.
    pub(crate) expires: bool,
}

impl Attributes {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            path: "/".into(),
            domain: None,
            same_site: SameSite::default(),
            secure: Secure::default(),
            http_only: true,
            partitioned: false,
            expires: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        self.check_path_and_domain()?;
        let secure = self.secure == Secure::Always;
        if self.same_site == SameSite::None && !secure {
            return Err(self.invalid("SameSite=None needs Secure; set secure to always"));
        }
        if self.partitioned && !secure {
            return Err(self.invalid("Partitioned needs Secure; set secure to always"));
        }
        self.check_prefix()
    }

    /// User agents compare the prefixes without regard to case (RFC 6265bis, section 5.7).
    fn check_prefix(&self) -> Result<(), ConfigError> {
        const PREFIXES: [&str; 4] = ["__Host-Http-", "__Host-", "__Http-", "__Secure-"];
        let has = |prefix: &str| {
            let start = self.name.as_bytes().get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        let Some(prefix) = PREFIXES.into_iter().find(|prefix| has(prefix)) else {
            return Ok(());
        };
        let wrong = |what: &str| Err(self.invalid(&format!("the prefix {prefix} {what}")));
        if self.secure != Secure::Always {
            return wrong("needs Secure; set secure to always");
        }
        if prefix.ends_with("Http-") && !self.http_only {
            return wrong("needs HttpOnly; leave http_only at true");
        }
        if prefix.starts_with("__Host-") && self.domain.is_some() {
            return wrong("allows no domain; leave it out");
        }
        if prefix.starts_with("__Host-") && self.path != "/" {
            return wrong("needs the path \"/\"");
        }
        Ok(())
    }

    fn check_path_and_domain(&self) -> Result<(), ConfigError> {
        let plain = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b';');
        if !self.path.is_empty() && (!self.path.starts_with('/') || !plain(&self.path)) {
            return Err(self.invalid(
                "the path must begin with '/' and be visible ASCII without ';', or be empty for none",
            ));
        }
        let Some(domain) = &self.domain else {
            return Ok(());
        };
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !domain.split('.').all(label) {
            return Err(self.invalid("the domain must be a name such as \"example.org\""));
        }
        Ok(())
    }

    fn invalid(&self, problem: &str) -> ConfigError {
        invalid(&self.name, problem)
    }

    /// The cookie without its value, for [`header`](Self::header).
    pub(crate) fn template(&self) -> Cookie<'static> {
        let same_site = match self.same_site {
            SameSite::Lax => Some(cookie::SameSite::Lax),
            SameSite::Strict => Some(cookie::SameSite::Strict),
            SameSite::None => Some(cookie::SameSite::None),
            SameSite::Unset => None,
        };
        let mut cookie = CookieBuilder::new(self.name.clone(), "")
            .http_only(self.http_only)
            .partitioned(self.partitioned);
        if let Some(same_site) = same_site {
            cookie = cookie.same_site(same_site);
        }
        if !self.path.is_empty() {
            cookie = cookie.path(self.path.clone());
        }
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(domain.clone());
        }
        cookie.build()
    }

    /// The header field for one response at the time `now`. `value` is an id or a sealed token, never a part
    /// of the request.
    pub(crate) fn header(
        &self,
        template: &Cookie<'static>,
        value: String,
        max_age: Option<Duration>,
        https: bool,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        let mut cookie = template.clone();
        cookie.set_value(value);
        cookie.set_secure(match self.secure {
            Secure::Auto => https,
            Secure::Always => true,
            Secure::Never => false,
        });
        if let Some(max_age) = max_age {
            let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            cookie.set_max_age(cookie::time::Duration::seconds(seconds));
            if self.expires {
                cookie.set_expires(expires(now, max_age));
            }
        }
        HeaderValue::try_from(cookie.to_string()).ok()
    }
}

/// The end of `max_age`; the Unix epoch for a cookie that is to be removed.
fn expires(now: SystemTime, max_age: Duration) -> OffsetDateTime {
    let end = if max_age.is_zero() { None } else { now.checked_add(max_age) };
    end.unwrap_or(SystemTime::UNIX_EPOCH).into()
}

/// Checks that `name` can be the name of a cookie.
pub(crate) fn check_name(name: &str) -> Result<(), ConfigError> {
    // A token of RFC 9110, section 5.6.2, as RFC 6265 requires.
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) || name.len() > 128 {
        return Err(invalid(
            name,
            "the name must be 1 to 128 letters, digits and characters of !#$%&'*+-.^_`|~",
        ));
    }
    if name.starts_with('$') {
        return Err(invalid(name, "names that begin with '$' are attributes in old clients"));
    }
    Ok(())
}

fn invalid(name: &str, problem: &str) -> ConfigError {
    ConfigError::new(format!("the cookie {name:?}: {problem}"))
}

/// Whether a response sets a cookie named `name`.
pub(crate) fn sets(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|field| is_named(field.as_bytes(), name))
}

/// Removes every `Set-Cookie` field for `name`; the others do not change.
pub(crate) fn drop_named(headers: &mut HeaderMap, name: &str) {
    let Entry::Occupied(fields) = headers.entry(SET_COOKIE) else {
        return;
    };
    let (key, fields) = fields.remove_entry_mult();
    let kept: Vec<_> = fields.filter(|field| !is_named(field.as_bytes(), name)).collect();
    for field in kept {
        headers.append(&key, field);
    }
}

/// Whether a `Set-Cookie` field is for the cookie `name`.
pub(crate) fn is_named(field: &[u8], name: &str) -> bool {
    let end = field.iter().position(|&b| b == b'=' || b == b';').unwrap_or(field.len());
    field[..end].trim_ascii() == name.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(name: &str) -> Attributes {
        Attributes::new(name.into())
    }

    fn header(attributes: &Attributes, max_age: Option<u64>, https: bool) -> String {
        attributes.check().unwrap();
        let max_age = max_age.map(Duration::from_secs);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_420);
        let header = attributes.header(&attributes.template(), "v".into(), max_age, https, now);
        header.unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn attributes_are_written() {
        let plain = attributes("sid");
        assert_eq!(header(&plain, None, false), "sid=v; HttpOnly; SameSite=Lax; Path=/");
        assert_eq!(
            header(&plain, Some(60), true),
            "sid=v; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60"
        );
        let all = Attributes {
            path: "/shop".into(),
            domain: Some("example.org".into()),
            same_site: SameSite::None,
            secure: Secure::Always,
            http_only: false,
            partitioned: true,
            ..attributes("sid")
        };
        assert_eq!(
            header(&all, None, false),
            "sid=v; SameSite=None; Partitioned; Secure; Path=/shop; Domain=example.org"
        );
        let bare = Attributes {
            path: String::new(),
            same_site: SameSite::Unset,
            expires: true,
            ..attributes("sid")
        };
        assert_eq!(header(&bare, None, false), "sid=v; HttpOnly");
        assert_eq!(
            header(&bare, Some(60), false),
            "sid=v; HttpOnly; Max-Age=60; Expires=Wed, 21 Oct 2015 07:28:00 GMT"
        );
        assert_eq!(
            header(&bare, Some(0), false),
            "sid=v; HttpOnly; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        );
        let never = Attributes { secure: Secure::Never, ..attributes("sid") };
        assert!(!header(&never, None, true).contains("Secure"));
    }

    #[test]
    fn invalid_attributes_are_rejected() {
        let always = |name: &str| Attributes { secure: Secure::Always, ..attributes(name) };
        let bad = [
            attributes(""),
            attributes("a b"),
            attributes("a=b"),
            attributes("$Version"),
            attributes("ä"),
            Attributes { path: "shop".into(), ..attributes("a") },
            Attributes { path: "/;x".into(), ..attributes("a") },
            Attributes { domain: Some("a;b".into()), ..attributes("a") },
            Attributes { domain: Some(".example.org".into()), ..attributes("a") },
            Attributes { same_site: SameSite::None, ..attributes("a") },
            Attributes { partitioned: true, ..attributes("a") },
            attributes("__Secure-a"),
            attributes("__host-a"),
            Attributes { domain: Some("example.org".into()), ..always("__Host-a") },
            Attributes { path: "/x".into(), ..always("__Host-a") },
            Attributes { path: String::new(), ..always("__Host-a") },
            attributes("__Http-a"),
            Attributes { http_only: false, ..always("__HTTP-a") },
            Attributes { http_only: false, ..always("__Host-Http-a") },
            Attributes { path: "/x".into(), ..always("__Host-Http-a") },
            Attributes { domain: Some("example.org".into()), ..always("__host-http-a") },
        ];
        for bad in bad {
            let error = bad.check().expect_err(&format!("{bad:?} is invalid")).to_string();
            assert!(error.contains(&format!("{:?}", bad.name)), "{error} names the cookie");
        }
        assert!(always("__Host-a").check().is_ok());
        assert!(always("__Secure-a").check().is_ok());
        assert!(always("__Host-Http-a").check().is_ok());
        let wide = Attributes {
            domain: Some("example.org".into()),
            path: "/x".into(),
            ..always("__Http-a")
        };
        assert!(wide.check().is_ok());
        assert!(Attributes { http_only: false, ..always("__Host-a") }.check().is_ok());
    }

    #[test]
    fn a_name_has_at_most_128_characters() {
        assert!(check_name(&"a".repeat(128)).is_ok());
        assert!(check_name(&"a".repeat(129)).is_err());
    }

    #[test]
    fn other_cookies_of_a_response_are_kept() {
        let mut headers = HeaderMap::new();
        for field in ["a=1; Path=/", "sid=x; Path=/", "sidx=2", "SID=3", " sid =4", "sid; Path=/"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(field));
        }
        assert!(sets(&headers, "sid"));
        drop_named(&mut headers, "sid");
        assert!(!sets(&headers, "sid"));
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["a=1; Path=/", "sidx=2", "SID=3"]);
    }
}
