//! How the limits of owners stand, which all of an owner's keys share.

use tokio::time::Instant;

use super::{Figures, Gate};

impl Gate {
    /// How much is left of an owner's limits; nothing is told where there are none.
    pub fn owner_figures(&self, owner: &str) -> impl Iterator<Item = Figures> + use<> {
        let rules = self.rules();
        let figures = rules.of_owners.get(owner).map(|scope| scope.figures(Instant::now()));
        figures.into_iter().flatten().flatten()
    }
}
