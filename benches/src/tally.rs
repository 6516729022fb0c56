//! What callers have seen: counts, samples, and the first thing that went wrong.

/// What one or all connections have seen while it was measured.
#[derive(Default)]
pub struct Tally {
    pub requests: u64,
    pub chunks: u64,
    pub latency_ns: Vec<u64>,
    pub first_token_ns: Vec<u64>,
    pub transit_ns: Vec<u64>,
    pub gap_ns: Vec<u64>,
    /// Wrong answers and failures, those outside of the measured time included.
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Tally {
    pub fn fail(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    pub fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.chunks += other.chunks;
        self.latency_ns.extend(other.latency_ns);
        self.first_token_ns.extend(other.first_token_ns);
        self.transit_ns.extend(other.transit_ns);
        self.gap_ns.extend(other.gap_ns);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    pub fn sort(&mut self) {
        for values in [&mut self.latency_ns, &mut self.first_token_ns, &mut self.transit_ns, &mut self.gap_ns]
        {
            values.sort_unstable();
        }
    }
}
