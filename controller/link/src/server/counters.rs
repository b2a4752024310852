//! Everything that the server counts, for `/metrics`.

/// What happened at the operator's port since its start.
#[derive(Debug, Default)]
pub struct Counters {}

impl Counters {
    /// In Prometheus' text format, each with its `# HELP` and `# TYPE`; names begin with `l7mp_link_`.
    pub fn render(&self) -> String {
        String::new()
    }
}
