//! What the machine has for replicas, and who has which part of it. Pure: how much there is, is measured elsewhere.

use std::fmt;
use std::str::FromStr;

use decurion_api::spec::file::parse_size;
use decurion_api::spec::{Amount, Bytes, ResourcesSpec};
use serde::{Deserialize, Serialize};

/// What there is for replicas. `None`: it is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs in sum.
    pub cpus: Option<Amount>,
    /// Numbers of the CPUs that a replica may have for itself.
    pub cpu_ids: Vec<u16>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// GPUs, as `CUDA_VISIBLE_DEVICES` names them.
    pub gpus: Option<Vec<String>>,
}

/// What an operator says of the capacity in place of what is measured: `cpus=2,memory=1GiB,gpus=1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityOverride {
    /// CPUs.
    pub cpus: Option<Amount>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// How many GPUs.
    pub gpus: Option<u32>,
}

/// What one replica has of the capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// How much was asked for.
    pub resources: ResourcesSpec,
    /// CPUs of its own; none: it runs on any.
    pub cpu_ids: Vec<u16>,
    /// The GPUs that it may see; `None`: nothing was said of them.
    pub gpus: Option<Vec<String>>,
}

/// What is left of a capacity.
#[derive(Clone, Debug)]
pub struct Room<'c> {
    capacity: &'c Capacity,
    cpus: Amount,
    cpu_ids: Vec<u16>,
    memory: u64,
    gpus: Vec<(&'c str, Amount)>,
}

/// Why a replica does not fit: `needs 2 cpus, and 0.5 of 2 are free`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage(String);

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Capacity {
    /// With what an operator says in its place.
    #[must_use]
    pub fn overridden(mut self, by: &CapacityOverride) -> Self {
        self.cpus = by.cpus.or(self.cpus);
        self.memory = by.memory.or(self.memory);
        if let Some(count) = by.gpus {
            let known = self.gpus.unwrap_or_default();
            let named = |number: u32| known.get(number as usize).cloned().unwrap_or(number.to_string());
            self.gpus = Some((0..count).map(named).collect());
        }
        self
    }

    /// All of it, without anybody in it.
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room {
            capacity: self,
            cpus: self.cpus.unwrap_or(Amount::MAX),
            cpu_ids: self.cpu_ids.clone(),
            memory: self.memory.unwrap_or(u64::MAX),
            gpus: self.gpus.iter().flatten().map(|id| (id.as_str(), Amount::ONE)).collect(),
        }
    }

    /// Whether so many replicas that need this would fit if there was nobody else.
    #[must_use]
    pub fn has_room_for(&self, replicas: u32, needs: &ResourcesSpec) -> bool {
        let mut room = self.room();
        needs.is_empty() || (0..replicas).all(|_| room.reserve(needs).is_ok())
    }
}

/// `2 cpus, 1 GiB of memory, 0 gpus`.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpus =
            self.gpus.as_ref().map(|gpus| Amount::whole(u32::try_from(gpus.len()).unwrap_or(u32::MAX)));
        ResourcesSpec { cpus: self.cpus, memory: self.memory, gpus }.fmt(f)
    }
}

impl FromStr for CapacityOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "give what replicas may use in sum: cpus=2,memory=1GiB,gpus=0";
        let mut read = Self::default();
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("'{part}' has no value; {FORM}"))?;
            let refused = || format!("'{value}' is no amount of {name}; {FORM}");
            match name.trim() {
                "cpus" => {
                    let number = value.trim().parse().ok().and_then(Amount::from_f64);
                    read.cpus = Some(number.ok_or_else(refused)?);
                }
                "memory" => read.memory = Some(parse_size(value.trim())?),
                "gpus" => {
                    let count = value.trim().parse().ok().filter(|count| *count <= GPUS_MAX);
                    read.gpus = Some(count.ok_or_else(refused)?);
                }
                _ => return Err(format!("'{name}' is nothing that is counted; {FORM}")),
            }
        }
        Ok(read)
    }
}

/// GPUs of one machine.
const GPUS_MAX: u32 = 1_024;

impl Room<'_> {
    /// Takes what somebody has, also where there should not be so much.
    pub fn take(&mut self, held: &Reservation) {
        let spec = &held.resources;
        self.cpus = self.cpus.saturating_sub(spec.cpus.unwrap_or_default());
        self.memory = self.memory.saturating_sub(spec.memory.unwrap_or_default());
        self.cpu_ids.retain(|id| !held.cpu_ids.contains(id));
        let each = spec.gpus.unwrap_or_default().min(Amount::ONE);
        for id in held.gpus.iter().flatten() {
            if let Some((_, free)) = self.gpus.iter_mut().find(|(known, _)| known == id) {
                *free = free.saturating_sub(each);
            }
        }
    }

    /// Sets aside what one more replica needs.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was set aside then.
    pub fn reserve(&mut self, needs: &ResourcesSpec) -> Result<Reservation, Shortage> {
        if let Some(cpus) = needs.cpus.filter(|cpus| *cpus > self.cpus) {
            let of = self.capacity.cpus.unwrap_or_default();
            return Err(Shortage(format!("needs {}, and {} of {of} are free", cpus.of("cpu"), self.cpus)));
        }
        if let Some(memory) = needs.memory.filter(|memory| *memory > self.memory) {
            let (memory, free) = (Bytes(memory), Bytes(self.memory));
            let of = Bytes(self.capacity.memory.unwrap_or_default());
            return Err(Shortage(format!("needs {memory} of memory, and {free} of {of} are free")));
        }
        let reservation = Reservation {
            resources: needs.clone(),
            cpu_ids: self.own_cpus(needs.cpus),
            gpus: needs.gpus.map(|gpus| self.gpus_for(gpus)).transpose()?,
        };
        self.take(&reservation);
        Ok(reservation)
    }

    /// CPUs for one replica alone: whole ones, as long as there are some that nobody has.
    fn own_cpus(&self, cpus: Option<Amount>) -> Vec<u16> {
        let count = cpus.and_then(Amount::as_whole).unwrap_or(0) as usize;
        self.cpu_ids.get(..count).unwrap_or_default().to_vec()
    }

    /// Of parts, the GPU that has least left and yet enough; of whole ones, those that nobody has.
    fn gpus_for(&self, asked: Amount) -> Result<Vec<String>, Shortage> {
        if self.capacity.gpus.is_none() || asked == Amount::ZERO {
            return Ok(Vec::new());
        }
        let of = self.gpus.len();
        if asked < Amount::ONE {
            let fitting = self.gpus.iter().filter(|(_, free)| *free >= asked).min_by_key(|(_, free)| *free);
            let most = self.gpus.iter().map(|(_, free)| *free).max().unwrap_or_default();
            return match fitting {
                Some((id, _)) => Ok(vec![(*id).to_owned()]),
                None => Err(Shortage(format!(
                    "needs {asked} of one gpu, and {most} is the most that is free of one of {of}"
                ))),
            };
        }
        let whole: Vec<&str> =
            self.gpus.iter().filter(|(_, free)| *free == Amount::ONE).map(|(id, _)| *id).collect();
        match whole.get(..asked.ceil() as usize) {
            Some(ids) => Ok(ids.iter().map(|id| (*id).to_owned()).collect()),
            None => {
                let free = whole.len();
                Err(Shortage(format!("needs {}, and {free} of {of} are free", asked.of("gpu"))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(cpus: f64, memory: u64, gpus: f64) -> ResourcesSpec {
        let amount = |number: f64| Amount::from_f64(number).filter(|amount| *amount != Amount::ZERO);
        ResourcesSpec { cpus: amount(cpus), memory: Some(memory).filter(|it| *it > 0), gpus: amount(gpus) }
    }

    fn capacity() -> Capacity {
        Capacity {
            cpus: Some(Amount::whole(4)),
            cpu_ids: vec![0, 1, 4, 5],
            memory: Some(1 << 30),
            gpus: Some(vec!["0".to_owned(), "1".to_owned()]),
        }
    }

    #[test]
    fn whole_cpus_are_ones_own_and_parts_are_shared() {
        let capacity = capacity();
        let mut room = capacity.room();
        assert_eq!(room.reserve(&needs(2.0, 0, 0.0)).unwrap().cpu_ids, [0, 1]);
        assert!(room.reserve(&needs(0.5, 0, 0.0)).unwrap().cpu_ids.is_empty());
        assert_eq!(room.reserve(&needs(1.0, 0, 0.0)).unwrap().cpu_ids, [4]);
        let shortage = room.reserve(&needs(1.0, 0, 0.0)).unwrap_err();
        assert_eq!(shortage.to_string(), "needs 1 cpu, and 0.5 of 4 are free");
        assert!(room.reserve(&needs(0.5, 0, 0.0)).is_ok());
    }

    #[test]
    fn more_cpus_than_there_are_numbers_for_are_shared() {
        let by = "cpus=8".parse().unwrap();
        let capacity = capacity().overridden(&by);
        let mut room = capacity.room();
        let own: Vec<usize> =
            (0..4).map(|_| room.reserve(&needs(2.0, 0, 0.0)).unwrap().cpu_ids.len()).collect();
        assert_eq!(own, [2, 2, 0, 0]);
    }

    #[test]
    fn memory_is_counted_to_the_byte() {
        let capacity = capacity();
        let mut room = capacity.room();
        assert!(room.reserve(&needs(0.0, 768 << 20, 0.0)).is_ok());
        let shortage = room.reserve(&needs(0.0, (256 << 20) + 1, 0.0)).unwrap_err();
        assert_eq!(shortage.to_string(), "needs 256 MiB of memory, and 256 MiB of 1 GiB are free");
        assert!(room.reserve(&needs(0.0, 256 << 20, 0.0)).is_ok());
    }

    #[test]
    fn parts_of_gpus_share_one_and_whole_ones_are_ones_own() {
        let capacity = capacity();
        let mut room = capacity.room();
        let mut gpus = |gpus: f64| room.reserve(&needs(0.0, 0, gpus)).map(|it| it.gpus.unwrap().join(","));
        assert_eq!(gpus(0.5).unwrap(), "0");
        assert_eq!(gpus(1.0).unwrap(), "1");
        assert_eq!(gpus(1.0).unwrap_err().to_string(), "needs 1 gpu, and 0 of 2 are free");
        assert_eq!(gpus(0.25).unwrap(), "0");
        let shortage = gpus(0.5).unwrap_err();
        assert_eq!(
            shortage.to_string(),
            "needs 0.5 of one gpu, and 0.25 is the most that is free of one of 2"
        );
    }

    #[test]
    fn no_gpus_asked_for_is_another_thing_than_nothing_said() {
        let capacity = capacity();
        let none = ResourcesSpec { gpus: Some(Amount::ZERO), ..ResourcesSpec::default() };
        assert_eq!(capacity.room().reserve(&none).unwrap().gpus, Some(Vec::new()));
        assert_eq!(capacity.room().reserve(&ResourcesSpec::default()).unwrap().gpus, None);
    }

    #[test]
    fn what_others_have_is_taken_also_where_it_is_too_much() {
        let capacity = capacity();
        let mut room = capacity.room();
        let held = Reservation {
            resources: needs(9.0, 1 << 40, 1.0),
            cpu_ids: vec![0, 9],
            gpus: Some(vec!["1".to_owned(), "gone".to_owned()]),
        };
        room.take(&held);
        assert!(room.reserve(&needs(0.001, 0, 0.0)).is_err());
        assert_eq!(room.reserve(&needs(0.0, 0, 1.0)).unwrap().gpus, Some(vec!["0".to_owned()]));
    }

    #[test]
    fn what_fits_alone_is_told_from_what_never_does() {
        let capacity = capacity();
        assert!(capacity.has_room_for(2, &needs(2.0, 512 << 20, 1.0)));
        assert!(!capacity.has_room_for(3, &needs(0.0, 0, 1.0)));
        assert!(capacity.has_room_for(1_000, &ResourcesSpec::default()));
        assert!(Capacity::default().has_room_for(1_000, &needs(64.0, 1 << 40, 4.0)));
        assert_eq!(capacity.to_string(), "4 cpus, 1 GiB of memory, 2 gpus");
    }

    #[test]
    fn an_override_is_read_or_refused() {
        let by: CapacityOverride = "cpus=1.5,memory=1GiB,gpus=3".parse().unwrap();
        let capacity =
            Capacity { gpus: Some(vec!["GPU-a".to_owned()]), ..Capacity::default() }.overridden(&by);
        assert_eq!(capacity.to_string(), "1.5 cpus, 1 GiB of memory, 3 gpus");
        assert_eq!(capacity.gpus.unwrap(), ["GPU-a", "1", "2"]);
        for bad in ["", "cpus", "cpus=x", "cpus=-1", "memory=1", "disk=1", "gpus=0.5", "gpus=99999"] {
            let read = bad.parse::<CapacityOverride>();
            assert_eq!(read.is_ok(), bad == "memory=1", "{bad}: {read:?}");
        }
    }
}
