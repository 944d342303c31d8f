//! Faults that a test orders from a simulated disk: at the n-th operation of a class, once or for
//! ever.

use std::io;

/// Which operations a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Reads, direct and cached.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Allocations.
    Allocate,
    /// Punches.
    Punch,
    /// All of them.
    Any,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. Of a failed write or flush any sector may be on the medium, now and ever after.
    Eio,
    /// ENOSPC: nothing was done.
    NoSpace,
    /// EINTR: nothing was done.
    Interrupted,
    /// The first half (in whole sectors) was transferred, then EIO. Other classes: as EIO.
    Short,
}

/// One order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which operations count.
    pub class: Class,
    /// The operation that fails, counted from zero since the plan was set.
    pub nth: u64,
    /// Whether all later ones fail too.
    pub for_ever: bool,
    /// How.
    pub fault: Fault,
}

/// The orders for a disk, and how far its operations have come.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    rules: Vec<(Rule, u64)>,
}

impl FaultPlan {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// The same plan with one more order.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push((rule, 0));
        self
    }

    /// Counts an operation and says how it fails.
    pub fn meet(&mut self, class: Class) -> Option<Fault> {
        let mut fault = None;
        for (rule, seen) in &mut self.rules {
            if rule.class != class && rule.class != Class::Any {
                continue;
            }
            if *seen == rule.nth || (*seen > rule.nth && rule.for_ever) {
                fault = fault.or(Some(rule.fault));
            }
            *seen += 1;
        }
        fault
    }
}

impl Fault {
    /// The error that the caller sees.
    pub fn error(self) -> io::Error {
        match self {
            Self::Eio | Self::Short => eio(),
            Self::NoSpace => no_space(),
            Self::Interrupted => io::Error::from_raw_os_error(4),
        }
    }
}

/// EIO, as Linux numbers it.
pub fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// ENOSPC, as Linux numbers it.
pub fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fires_at_its_number_and_later_only_if_told_so() {
        let rule = |class, nth, for_ever| Rule {
            class,
            nth,
            for_ever,
            fault: Fault::Eio,
        };
        let mut plan = FaultPlan::none()
            .with(rule(Class::Write, 1, false))
            .with(rule(Class::Any, 4, true));
        let met: Vec<bool> = [
            Class::Write,
            Class::Flush,
            Class::Write,
            Class::Write,
            Class::Read,
            Class::Flush,
        ]
        .into_iter()
        .map(|class| plan.meet(class).is_some())
        .collect();
        assert_eq!(met, [false, false, true, false, true, true]);
    }

    #[test]
    fn errors_carry_the_kinds_that_the_engine_tells_apart() {
        assert_eq!(Fault::NoSpace.error().kind(), io::ErrorKind::StorageFull);
        assert_eq!(
            Fault::Interrupted.error().kind(),
            io::ErrorKind::Interrupted
        );
    }
}
