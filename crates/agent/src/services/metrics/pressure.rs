//! How long work waited for want of a resource: `/proc/pressure`, of Linux 4.20 on where it is switched on.

use super::{
    files::Root,
    sample::Values,
    text::{decimal, lines, words},
    watched::Watched,
};

/// The collector of one resource's pressure.
#[derive(Debug)]
pub(super) struct Pressure {
    file: Watched,
    names: [String; 2],
}

impl Pressure {
    /// Of `cpu`, `memory` or `io`.
    pub(super) fn new(root: &Root, resource: &str) -> Self {
        Self {
            file: Watched::optional(root, &format!("proc/pressure/{resource}")),
            names: ["some", "full"].map(|who| format!("pressure.{resource}.{who}")),
        }
    }

    /// Puts the share of the last 10 s in which some, or all, of the work waited.
    pub(super) fn collect(&mut self, values: &mut Values) {
        let Some(text) = self.file.read() else { return };
        for line in lines(text) {
            if let Some((full, share)) = parse(line) {
                values.put(&self.names[usize::from(full)], "%", share);
            }
        }
    }
}

/// `some avg10=0.53 avg60=… avg300=… total=…` as whether it is the line of "full", and the first number.
fn parse(line: &[u8]) -> Option<(bool, f64)> {
    let mut words = words(line);
    let full = match words.next()? {
        b"some" => false,
        b"full" => true,
        _ => return None,
    };
    let share = words.find_map(|word| word.strip_prefix(b"avg10="))?;
    Some((full, decimal(share).filter(|share| *share <= 100.0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::metrics::fixture::{Tree, look};

    #[test]
    fn some_and_full_are_told_apart() {
        let tree = Tree::new();
        tree.file("proc/pressure/io", "some avg10=1.85 avg60=6.02 avg300=6.21 total=337114426\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=84233123\n");
        let mut pressure = Pressure::new(&tree.root(), "io");
        let seen = look(|values| pressure.collect(values));
        assert_eq!(
            seen,
            [("pressure.io.full", 0.0), ("pressure.io.some", 1.85)]
                .map(|(name, value)| (name.to_owned(), value))
                .into()
        );
    }

    #[test]
    fn what_is_no_pressure_is_absent() {
        let tree = Tree::new();
        let mut pressure = Pressure::new(&tree.root(), "cpu");
        assert!(look(|values| pressure.collect(values)).is_empty(), "no such file");
        for odd in [
            "",
            "some",
            "some avg10=",
            "some avg10=nan",
            "some avg10=-1",
            "some avg10=1e9",
            "any avg10=1",
            "\0\n\n",
        ] {
            tree.file("proc/pressure/cpu", odd);
            assert!(look(|values| pressure.collect(values)).is_empty(), "{odd}");
        }
    }
}
