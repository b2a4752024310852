//! Prometheus' text format, as far as our proxy writes it.

use std::collections::{BTreeSet, HashMap};

/// The values of all metrics by name and labels.
#[derive(Debug, Default)]
pub struct Samples(HashMap<String, Vec<Sample>>);

#[derive(Debug)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// Reads what `/metrics` answers. Lines that make no sense are left out: they are of a newer proxy.
    pub fn read(text: &str) -> Samples {
        let mut samples = Samples::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = read_line(line) {
                samples.0.entry(name.to_owned()).or_default().push(sample);
            }
        }
        samples
    }

    /// The sum of a metric's values over all labels.
    pub fn total(&self, name: &str) -> f64 {
        self.0.get(name).into_iter().flatten().map(|sample| sample.value).sum()
    }

    /// The values that a label has, sorted.
    pub fn members(&self, name: &str, label: &str) -> BTreeSet<&str> {
        self.0.get(name).into_iter().flatten().filter_map(|sample| sample.label(label)).collect()
    }

    /// A metric's values by those of one label, where another one has a certain value.
    pub fn by<'a>(&'a self, name: &str, label: &str, only: Option<(&str, &str)>) -> HashMap<&'a str, f64> {
        let mut values = HashMap::new();
        for sample in self.0.get(name).into_iter().flatten() {
            let wanted = only.is_none_or(|(other, value)| sample.label(other) == Some(value));
            if let (true, Some(member)) = (wanted, sample.label(label)) {
                *values.entry(member).or_default() += sample.value;
            }
        }
        values
    }
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// `name{label="value",...} 12`
fn read_line(line: &str) -> Option<(&str, Sample)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some((series, Sample { labels: Vec::new(), value }));
    };
    let mut labels = Vec::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"")?;
        let (text, after) = unquote(quoted)?;
        labels.push((label.to_owned(), text));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some((name, Sample { labels, value }))
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    loop {
        match characters.next()? {
            (end, '"') => return Some((text, &quoted[end + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            (_, other) => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unescaped() {
        let samples = Samples::read(
            "# TYPE m counter\nm{name=\"a\\\"b\\\\c,}=\\n\",direction=\"in\"} 2\nm{name=\"x\",direction=\"in\"} 3\n\
             m{name=\"x\",direction=\"out\"} 4\nplain 1.5\nbroken{name=\"x 1\nmore words here\n",
        );
        assert_eq!(samples.total("m"), 9.0);
        assert_eq!(samples.total("plain"), 1.5);
        assert_eq!(samples.total("broken"), 0.0);
        assert_eq!(samples.members("m", "name").into_iter().collect::<Vec<_>>(), ["a\"b\\c,}=\n", "x"]);
        assert_eq!(samples.by("m", "name", Some(("direction", "out"))), HashMap::from([("x", 4.0)]));
        assert_eq!(samples.by("m", "name", None)["x"], 7.0);
    }
}
