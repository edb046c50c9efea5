//! Classes of age for requests in flight. They change what a snapshot counts, never what the pipeline computes.

/// Ages that may divide the classes.
const MAX_STEPS: usize = 3;
const SECOND_NS: u64 = 1_000_000_000;

/// The ages at which a request in flight comes into the next class: one to three, ascending; so two to four classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeSteps {
    // What is not used is `u64::MAX`: no request gets that old.
    steps_ns: [u64; MAX_STEPS],
    n: usize,
}

impl AgeSteps {
    /// Classes at most.
    pub const MAX_CLASSES: usize = MAX_STEPS + 1;
    /// Scouter's: 3 and 8 s.
    pub const SCOUTER: AgeSteps = AgeSteps { steps_ns: [3 * SECOND_NS, 8 * SECOND_NS, u64::MAX], n: 2 };
    /// Pinpoint's: 1, 3 and 5 s.
    pub const PINPOINT: AgeSteps =
        AgeSteps { steps_ns: [SECOND_NS, 3 * SECOND_NS, 5 * SECOND_NS], n: MAX_STEPS };
    /// JENNIFER's: 1, 3 and 8 s.
    pub const JENNIFER: AgeSteps =
        AgeSteps { steps_ns: [SECOND_NS, 3 * SECOND_NS, 8 * SECOND_NS], n: MAX_STEPS };

    /// These ages, ns; `None` unless they are one to three, above zero and ascending.
    pub fn new(ages_ns: &[u64]) -> Option<AgeSteps> {
        let ascending = ages_ns.windows(2).all(|pair| pair[0] < pair[1]);
        if !(1..=MAX_STEPS).contains(&ages_ns.len()) || !ascending || ages_ns[0] == 0 {
            return None;
        }
        let mut steps_ns = [u64::MAX; MAX_STEPS];
        steps_ns[..ages_ns.len()].copy_from_slice(ages_ns);
        Some(AgeSteps { steps_ns, n: ages_ns.len() })
    }

    /// The ages, ns.
    pub fn ages_ns(&self) -> &[u64] {
        &self.steps_ns[..self.n]
    }

    /// How many classes there are.
    pub fn n_classes(&self) -> usize {
        self.n + 1
    }

    /// The class of an age: 0 is the youngest.
    pub fn class(&self, age_ns: u64) -> usize {
        self.ages_ns().iter().filter(|step| age_ns >= **step).count()
    }
}

impl Default for AgeSteps {
    fn default() -> Self {
        AgeSteps::SCOUTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_the_class_of_the_last_step_that_it_reached() {
        for (steps, ages) in [
            (
                AgeSteps::SCOUTER,
                vec![(2_999, 0), (3_000, 1), (7_999, 1), (8_000, 2), (u64::MAX / 1_000_000, 2)],
            ),
            (AgeSteps::PINPOINT, vec![(0, 0), (1_000, 1), (3_000, 2), (5_000, 3)]),
            (AgeSteps::JENNIFER, vec![(999, 0), (2_999, 1), (7_999, 2), (8_000, 3)]),
        ] {
            for (age_ms, class) in ages {
                assert_eq!(steps.class(age_ms * 1_000_000), class, "{steps:?} {age_ms} ms");
            }
        }
        assert_eq!([AgeSteps::SCOUTER, AgeSteps::JENNIFER].map(|steps| steps.n_classes()), [3, 4]);
    }

    #[test]
    fn steps_that_do_not_ascend_are_refused() {
        assert_eq!(AgeSteps::new(&[3 * SECOND_NS, 8 * SECOND_NS]), Some(AgeSteps::SCOUTER));
        for bad in [vec![], vec![0], vec![2, 2], vec![3, 1], vec![1, 2, 3, 4]] {
            assert_eq!(AgeSteps::new(&bad), None, "{bad:?}");
        }
    }
}
