//! The format of a stored session: a version byte, and JSON.

use std::collections::HashMap;

use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tower_sessions_core::{
    session::{Id, Record},
    session_store::Error,
};

/// The first byte, the version of the format.
const VERSION: u8 = 1;

/// The expiry date in Unix seconds, the nanoseconds in that second, and the data. It is JSON so that other
/// tools can read it. The date is not in the format of `serde`, which depends on features of other crates.
type Content<D> = (i64, u32, D);

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, Error> {
    let date = record.expiry_date;
    let content: Content<_> = (date.unix_timestamp(), date.nanosecond(), &record.data);
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, &content)
        .map_err(|error| Error::Encode(format!("the session cannot be encoded: {error}")))?;
    Ok(bytes)
}

pub(super) fn decode(id: &Id, bytes: &[u8]) -> Result<Record, Error> {
    let bad = |what: String| Error::Decode(format!("a stored session cannot be decoded: {what}"));
    let json = match bytes.split_first() {
        Some((&VERSION, json)) => json,
        Some((other, _)) => {
            return Err(bad(format!("its version is {other}, expected {VERSION}")));
        }
        None => return Err(bad("it is empty".to_owned())),
    };
    let (seconds, nanoseconds, data): Content<HashMap<String, Value>> =
        serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
    let expiry_date = OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.checked_add(Duration::nanoseconds(nanoseconds.into())))
        .ok_or_else(|| bad(format!("its expiry date, {seconds}, is out of range")))?;
    Ok(Record { id: *id, data, expiry_date })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let data = HashMap::from([("cart".to_owned(), serde_json::json!({ "tea": [1, null] }))]);
        let expiry_date = OffsetDateTime::now_utc() + Duration::nanoseconds(1);
        Record { id: Id(7), data, expiry_date }
    }

    #[test]
    fn an_encoded_session_is_decoded() {
        let record = record();
        assert_eq!(decode(&record.id, &encode(&record).unwrap()).unwrap(), record);
        let early = Record { expiry_date: OffsetDateTime::UNIX_EPOCH - Duration::SECOND, ..record };
        assert_eq!(decode(&early.id, &encode(&early).unwrap()).unwrap(), early);
    }

    #[test]
    fn truncated_and_foreign_data_is_an_error() {
        let encoded = encode(&record()).unwrap();
        for length in 0..encoded.len() {
            let truncated = decode(&Id(7), &encoded[..length]);
            let of = encoded.len();
            assert!(matches!(truncated, Err(Error::Decode(_))), "{length} of {of} bytes");
        }
        for foreign in [
            &b"\x02[1,0,{}]"[..],
            b"\x01[1,0,{},4]",
            b"\x01[1,0,[]]",
            b"\x01[9223372036854775807,0,{}]",
            b"\x01[-9223372036854775808,4294967295,{}]",
            b"\x01{}",
            b"hello",
            b"\x01\xff",
        ] {
            assert!(matches!(decode(&Id(7), foreign), Err(Error::Decode(_))), "{foreign:?}");
        }
    }
}
