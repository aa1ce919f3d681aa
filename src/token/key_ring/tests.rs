//! Tests of keys and rings of keys.

use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;

/// Counts the events of a thread.
#[derive(Clone, Default)]
struct Events(Arc<AtomicU64>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn an_unknown_key_is_warned_of_once_a_minute() {
    let ring = KeyRing::generate().unwrap();
    // Without a subscriber, so that tests in other threads cannot be the first ones to warn.
    ring.warn_unknown_key(1, 60);
    let events = Events::default();
    let subscriber = tracing_subscriber::registry().with(events.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let warnings = [6000, 6001, 6059, 6060, 6119, 6120].map(|now| {
        ring.warn_unknown_key(1, now);
        events.0.load(Relaxed)
    });
    assert_eq!(warnings, [1, 1, 1, 2, 2, 3]);
}

#[test]
fn keys_are_checked() {
    let short = Key::from_bytes([1; 31]).unwrap_err().to_string();
    assert!(short.contains("31 bytes") && short.contains("32"), "{short}");
    assert!(Key::from_bytes([7; 32]).is_err(), "one byte repeated is not random");
    assert!(Key::from_base64("not base64!").is_err());
    assert!(KeyRing::new([]).is_err());
    assert!(KeyRing::from_env("TOWER_STICKY_NO_SUCH_VARIABLE").is_err());
}

#[test]
fn both_base64_alphabets_are_read() {
    let bytes: Vec<u8> = (200..=255).collect();
    for engine in [general_purpose::STANDARD, general_purpose::URL_SAFE] {
        let key = Key::from_base64(&engine.encode(&bytes)).unwrap();
        assert_eq!(&*key.secret, bytes);
    }
}

#[test]
fn secrets_are_not_printed() {
    let key = Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
    assert_eq!(format!("{key:?}"), "Key(..)");
    let ring = KeyRing::new([key]).unwrap();
    assert_eq!(format!("{ring:?}"), "KeyRing { keys: 1, .. }");
}

#[test]
fn a_key_is_written_as_it_is_read() {
    let text = general_purpose::STANDARD.encode((0..32).collect::<Vec<u8>>());
    assert_eq!(Key::from_base64(&text).unwrap().to_base64(), text);
}

#[test]
fn a_variable_has_several_keys_or_is_refused() {
    let read = |value: Option<&str>| Key::all_from_value("KEYS", value);
    let [one, two] = [0, 1].map(|first| Key::from_bytes((first..first + 32).collect::<Vec<u8>>()));
    let (one, two) = (one.unwrap().to_base64(), two.unwrap().to_base64());
    for value in [format!("{one},{two}"), format!("\n{one} \t{two},"), format!("{one}, {two}")] {
        let keys = read(Some(&value)).unwrap();
        let keys: Vec<_> = keys.iter().map(Key::to_base64).collect();
        assert_eq!(keys, [one.clone(), two.clone()], "{value:?}");
    }
    for (value, word) in
        [(None, "KEYS is not set"), (Some(" ,"), "KEYS is empty"), (Some("AAAA"), "KEYS: ")]
    {
        let error = read(value).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(Key::all_from_env("TOWER_STICKY_NO_SUCH_VARIABLE").is_err());
}
