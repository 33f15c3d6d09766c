//! What one replica needs of the machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Resources of one replica: what is named is set aside for it, what is not is shared by all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourcesSpec {
    /// CPUs; whole ones are its own, where there are enough.
    pub cpus: Option<Amount>,
    /// Bytes of memory, which it may not exceed.
    pub memory: Option<u64>,
    /// GPUs, a part of one or whole ones. None of them: it sees no GPU. Not named: it sees what the machine has.
    pub gpus: Option<Amount>,
}

impl ResourcesSpec {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `1 cpu, 512 MiB of memory, 0.5 gpus`.
impl fmt::Display for ResourcesSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |amount: Option<Amount>, unit: &str| amount.map(|amount| amount.of(unit));
        let memory = self.memory.map(|bytes| format!("{} of memory", Bytes(bytes)));
        let parts = [counted(self.cpus, "cpu"), memory, counted(self.gpus, "gpu")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// A number of things of which parts can be had, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Amount(u32);

/// Thousandths of one.
const ONE: u32 = 1_000;

impl Amount {
    /// None.
    pub const ZERO: Self = Self(0);
    /// One.
    pub const ONE: Self = Self(ONE);
    /// More than any machine has.
    pub const MAX: Self = Self(100_000 * ONE);

    /// So many whole ones.
    #[must_use]
    pub fn whole(count: u32) -> Self {
        Self(count.saturating_mul(ONE)).min(Self::MAX)
    }

    /// So many thousandths.
    #[must_use]
    pub fn thousandths(count: u32) -> Self {
        Self(count).min(Self::MAX)
    }

    /// A number with up to three decimals. `None`: it has more, is negative, or beyond [`Self::MAX`].
    #[must_use]
    pub fn from_f64(number: f64) -> Option<Self> {
        const EXACT: f64 = 1e-6;
        let thousandths = (number * f64::from(ONE)).round();
        let close = (thousandths - number * f64::from(ONE)).abs() < EXACT * f64::from(ONE);
        #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
        let count = thousandths as u32;
        (close && (0.0..=f64::from(Self::MAX.0)).contains(&thousandths)).then_some(Self(count))
    }

    /// As a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(ONE)
    }

    /// The least whole number that is not less.
    #[must_use]
    pub fn ceil(self) -> u32 {
        self.0.div_ceil(ONE)
    }

    /// As a whole number, if it is one.
    #[must_use]
    pub fn as_whole(self) -> Option<u32> {
        self.0.is_multiple_of(ONE).then_some(self.0 / ONE)
    }

    /// What is left without another; `None`: the other is more.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// What is left without another, or none.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// With its unit: `0.5 cpus`, `1 cpu`.
    #[must_use]
    pub fn of(self, unit: &str) -> String {
        format!("{self} {unit}{}", if self == Self::ONE { "" } else { "s" })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

/// Bytes for people: `512 MiB`, `1.5 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(*unit);
                match tenths % 10 {
                    0 => write!(f, "{} {name}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
                }
            }
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_decimals_and_no_more() {
        let read = |number: f64| Amount::from_f64(number).map(|amount| amount.to_string());
        for number in [0.0, 0.001, 0.1, 0.29, 0.5, 1.0, 1.5, 2.999, 64.0, 100_000.0] {
            assert_eq!(read(number), Some(number.to_string()));
        }
        for bad in [-0.5, 0.0001, 0.3333, f64::NAN, f64::INFINITY, 100_001.0] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!([0.001, 1.0, 1.5].map(|n| Amount::from_f64(n).unwrap().ceil()), [1, 1, 2]);
        assert_eq!([0.5, 2.0].map(|n| Amount::from_f64(n).unwrap().as_whole()), [None, Some(2)]);
    }

    #[test]
    fn what_is_needed_has_words() {
        let amount = |number| Amount::from_f64(number);
        let spec = ResourcesSpec { cpus: amount(0.5), memory: Some(3 << 29), gpus: amount(1.0) };
        assert_eq!(spec.to_string(), "0.5 cpus, 1.5 GiB of memory, 1 gpu");
        assert_eq!(ResourcesSpec::default().to_string(), "nothing");
        assert_eq!(Bytes(512 << 20).to_string(), "512 MiB");
        assert_eq!(Bytes(1000).to_string(), "1000 bytes");
    }
}
