//! Declares a number once, at its field: its name, its help text and its kind.
//!
//! `measures!` defines a struct of numbers from a list. The doc comment of each is its help text. The
//! field's name is its key in JSON and, with a prefix and suffix, its name in Prometheus. So no
//! number can be counted and left out of a sum, of `/metrics` or of `/stats.json`.

use super::histogram::Histogram;

/// The kind of a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NumberKind {
    /// Events, or bytes, since the start; it only rises.
    Counter,
    /// A current value.
    Gauge,
    /// Durations in buckets, since the start.
    Histogram,
}

/// One number, or a row of them, with its description.
#[non_exhaustive]
pub struct Measure<'a> {
    /// The field's name, which is the key in JSON.
    pub field: &'static str,
    /// The name in Prometheus without prefix and suffix, if it is not the field's;
    /// [`metric`](Self::metric) is the full name.
    pub name: Option<&'static str>,
    /// The help text.
    pub help: &'static str,
    /// The kind of the number.
    pub kind: NumberKind,
    /// The label that tells the numbers of a row apart, and its value for each.
    pub label: Option<(&'static str, Vec<&'static str>)>,
    /// The number, or the row.
    pub(crate) value: &'a dyn MeasuredValue,
}

impl Measure<'_> {
    /// The name in Prometheus.
    pub fn metric(&self) -> String {
        let name = self.name.unwrap_or(self.field);
        let suffix = if self.kind == NumberKind::Counter { "_total" } else { "" };
        // Names that begin with `process_` are standard for all programs.
        let prefix = if name.starts_with("process_") { "" } else { "threadgate_" };
        format!("{prefix}{name}{suffix}")
    }

    /// Each number with its label's value; a single number has none.
    pub fn samples(&self) -> Vec<(Option<&'static str>, Sample<'_>)> {
        let mut samples = Vec::new();
        self.value.each(&mut |sample| samples.push(sample));
        let words = self.label.iter().flat_map(|(_, words)| words.iter().copied().map(Some));
        words.chain([None]).zip(samples).collect()
    }
}

/// One number as shown.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Sample<'a> {
    /// A count.
    Count(u64),
    /// Seconds, or another number with a fraction.
    Fraction(f64),
    /// Durations.
    Histogram(&'a Histogram),
}

/// The types that a field may have.
pub trait MeasuredValue {
    /// Adds another thread's number to this one.
    fn add(&mut self, more: &Self)
    where
        Self: Sized;

    /// Passes each number to `f` in turn.
    fn each<'a>(&'a self, f: &mut dyn FnMut(Sample<'a>));
}

impl MeasuredValue for u64 {
    fn add(&mut self, more: &Self) {
        *self = self.wrapping_add(*more);
    }

    fn each<'a>(&'a self, f: &mut dyn FnMut(Sample<'a>)) {
        f(Sample::Count(*self));
    }
}

impl MeasuredValue for f64 {
    fn add(&mut self, more: &Self) {
        *self += more;
    }

    fn each<'a>(&'a self, f: &mut dyn FnMut(Sample<'a>)) {
        f(Sample::Fraction(*self));
    }
}

impl MeasuredValue for Histogram {
    fn add(&mut self, more: &Self) {
        Self::add(self, more);
    }

    fn each<'a>(&'a self, f: &mut dyn FnMut(Sample<'a>)) {
        f(Sample::Histogram(self));
    }
}

impl<V: MeasuredValue, const N: usize> MeasuredValue for [V; N] {
    fn add(&mut self, more: &Self) {
        self.iter_mut().zip(more).for_each(|(sum, n)| sum.add(n));
    }

    fn each<'a>(&'a self, f: &mut dyn FnMut(Sample<'a>)) {
        self.iter().for_each(|n| n.each(f));
    }
}

/// Defines a struct of numbers:
///
/// ```text
/// /// HELP TEXT.
/// Counter field_name: u64;
/// /// HELP TEXT.
/// Counter field_name: [u64; 3] = "prometheus_name", by "label" in ["a", "b", "c"];
/// ```
macro_rules! measures {
    (
        $(#[$meta:meta])*
        pub struct $owner:ident {
            $(
                $(#[doc = $help:literal])+
                $kind:ident $field:ident: $type:ty
                    $(= $name:literal)? $(, by $label:literal in $words:expr)?;
            )*
        }
    ) => {
        $(#[$meta])*
        pub struct $owner {
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl $owner {
            /// Adds each of `more`'s numbers to its own.
            #[allow(dead_code, reason = "no two proxies have gauges in common")]
            pub(crate) fn add(&mut self, more: &Self) {
                $($crate::observe::measure::MeasuredValue::add(&mut self.$field, &more.$field);)*
            }

            /// Every number, in the order of the list.
            pub fn measures(&self) -> Vec<$crate::observe::measure::Measure<'_>> {
                vec![$($crate::observe::measure::Measure {
                    field: stringify!($field),
                    name: None$(.or(Some($name)))?,
                    help: concat!($($help),+).trim_ascii(),
                    kind: $crate::observe::measure::NumberKind::$kind,
                    label: None$(.or(Some(($label, Vec::from($words)))))?,
                    value: &self.$field,
                },)*]
            }
        }
    };
}

pub(super) use measures;
