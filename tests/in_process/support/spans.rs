//! Records the spans of a thread.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

/// A span that has ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    pub name: &'static str,
    pub parent: Option<&'static str>,
    pub fields: BTreeMap<String, String>,
}

/// The spans that have ended on this thread.
#[derive(Clone, Default)]
pub struct Spans(Arc<Mutex<Vec<Ended>>>);

impl Spans {
    /// Records the spans of this thread until the guard is dropped.
    pub fn record() -> (Self, DefaultGuard) {
        let spans = Self::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        (spans, tracing::subscriber::set_default(subscriber))
    }

    /// The last span of this name.
    pub fn last(&self, name: &str) -> Ended {
        let ended = self.named(name);
        ended.last().unwrap_or_else(|| panic!("no span {name} has ended")).clone()
    }

    pub fn named(&self, name: &str) -> Vec<Ended> {
        self.0.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map(|parent| parent.name());
        let mut ended = Ended { name: span.name(), parent, ..Ended::default() };
        attributes.record(&mut Fields(&mut ended.fields));
        span.extensions_mut().insert(ended);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(&mut Fields(&mut extensions.get_mut::<Ended>().unwrap().fields));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let ended = span.extensions_mut().remove::<Ended>();
        self.0.lock().unwrap().extend(ended);
    }
}
