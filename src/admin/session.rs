//! The session of a browser that has logged in, and the token in forms.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};

/// The name of the cookie.
const COOKIE: &str = "sticky_admin";
/// How long a login lasts.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How long the token in a form is valid, at least.
const FORM_LIFETIME_SECS: u64 = 12 * 3600;
const NONCE_LEN: usize = 16;

/// Issues and checks sessions and form tokens: HMAC-SHA-256 (RFC 2104) under a key that this process alone has.
pub(super) struct Sessions {
    /// `None` when the system has no random numbers: then nobody logs in, and no form is accepted.
    key: Option<hmac::Key>,
    random: SystemRandom,
}

impl Sessions {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        Self { key: hmac::Key::generate(hmac::HMAC_SHA256, &random).ok(), random }
    }

    /// The value of `Set-Cookie` for a browser that has shown the admin token.
    pub(super) fn issue(
        &self,
        admin_token: &str,
        path: &str,
        https: bool,
        now: SystemTime,
    ) -> Option<String> {
        let mut raw = vec![0; NONCE_LEN];
        self.random.fill(&mut raw).ok()?;
        raw.extend_from_slice(&(unix_secs(now) + LIFETIME.as_secs()).to_be_bytes());
        let tag = self.session_tag(&raw, admin_token)?;
        raw.extend_from_slice(tag.as_ref());
        let value = URL_SAFE_NO_PAD.encode(raw);
        Some(set_cookie(&value, LIFETIME, path, https))
    }

    /// Whether the request has the session of somebody who has shown this admin token.
    pub(super) fn is_logged_in(
        &self,
        headers: &HeaderMap,
        admin_token: &str,
        now: SystemTime,
    ) -> bool {
        cookies(headers).any(|value| self.is_valid(value, admin_token, now))
    }

    fn is_valid(&self, value: &str, admin_token: &str, now: SystemTime) -> bool {
        let Ok(raw) = URL_SAFE_NO_PAD.decode(value) else { return false };
        let Some((content, tag)) = raw.split_at_checked(NONCE_LEN + 8) else { return false };
        let Some(expires) = content.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)) else {
            return false;
        };
        let Some(key) = &self.key else { return false };
        let message = session_message(content, admin_token);
        hmac::verify(key, &message, tag).is_ok() && unix_secs(now) < expires
    }

    fn session_tag(&self, content: &[u8], admin_token: &str) -> Option<hmac::Tag> {
        Some(hmac::sign(self.key.as_ref()?, &session_message(content, admin_token)))
    }

    /// The token of forms that are shown now to the browser with these headers.
    pub(super) fn form_token(&self, headers: &HeaderMap, now: SystemTime) -> String {
        let period = unix_secs(now) / FORM_LIFETIME_SECS;
        let tag = self.key.as_ref().map(|key| hmac::sign(key, &form_message(headers, period)));
        tag.map(|tag| URL_SAFE_NO_PAD.encode(tag)).unwrap_or_default()
    }

    /// Whether a form was shown to this browser, within the lifetime of forms.
    pub(super) fn is_form_token(&self, token: &str, headers: &HeaderMap, now: SystemTime) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(token) else { return false };
        let Some(key) = &self.key else { return false };
        let period = unix_secs(now) / FORM_LIFETIME_SECS;
        [period, period.saturating_sub(1)]
            .iter()
            .any(|period| hmac::verify(key, &form_message(headers, *period), &tag).is_ok())
    }
}

/// The value of `Set-Cookie` that ends the session.
pub(super) fn end(path: &str, https: bool) -> String {
    set_cookie("", Duration::ZERO, path, https)
}

/// The password of `Authorization: Basic` (RFC 7617); the name does not matter.
pub(super) fn basic_password(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(credentials.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

fn set_cookie(value: &str, max_age: Duration, path: &str, https: bool) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let secure = if https { "; Secure" } else { "" };
    format!(
        "{COOKIE}={value}; Path={path}; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        max_age.as_secs()
    )
}

/// The values of our cookie.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';'));
    pairs.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn session_message(content: &[u8], admin_token: &str) -> Vec<u8> {
    [b"session\0".as_slice(), content, admin_token.as_bytes()].concat()
}

/// A form is bound to the session of the browser, if it has one.
fn form_message(headers: &HeaderMap, period: u64) -> Vec<u8> {
    let session = cookies(headers).next().unwrap_or_default();
    [b"form\0".as_slice(), &period.to_be_bytes(), session.as_bytes()].concat()
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(set_cookie: &str) -> HeaderMap {
        let pair = set_cookie.split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[test]
    fn a_session_is_valid_for_its_token_and_its_lifetime() {
        let (sessions, now) = (Sessions::new(), SystemTime::now());
        let cookie = sessions.issue("secret", "", true, now).unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"));
        let headers = with_cookie(&cookie);
        assert!(sessions.is_logged_in(&headers, "secret", now));
        assert!(!sessions.is_logged_in(&headers, "another", now), "the token was changed");
        let later = now + LIFETIME;
        assert!(!sessions.is_logged_in(&headers, "secret", later), "it has expired");
        assert!(!Sessions::new().is_logged_in(&headers, "secret", now), "another process");
        for forged in ["", "AAAA", &cookie[13..60]] {
            let headers = with_cookie(&format!("{COOKIE}={forged}; Path=/"));
            assert!(!sessions.is_logged_in(&headers, "secret", now), "{forged}");
        }
    }

    #[test]
    fn the_token_of_a_form_is_of_one_browser() {
        let (sessions, now) = (Sessions::new(), SystemTime::now());
        let cookie = sessions.issue("secret", "/x", false, now).unwrap();
        let (one, other) = (with_cookie(&cookie), HeaderMap::new());
        let token = sessions.form_token(&one, now);
        assert!(sessions.is_form_token(&token, &one, now));
        assert!(sessions.is_form_token(
            &token,
            &one,
            now + Duration::from_secs(FORM_LIFETIME_SECS)
        ));
        assert!(!sessions.is_form_token(
            &token,
            &one,
            now + Duration::from_secs(2 * FORM_LIFETIME_SECS)
        ));
        assert!(!sessions.is_form_token(&token, &other, now));
        assert!(!sessions.is_form_token("", &one, now));
    }

    #[test]
    fn the_password_of_basic_is_read() {
        let basic = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            basic_password(&headers)
        };
        // "me:open:sesame"
        assert_eq!(basic("Basic bWU6b3BlbjpzZXNhbWU=").as_deref(), Some(&b"open:sesame"[..]));
        assert_eq!(basic("Basic open sesame"), None);
        assert_eq!(basic("Bearer bWU6b3BlbjpzZXNhbWU="), None);
    }
}
