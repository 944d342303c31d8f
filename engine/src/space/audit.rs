//! Whether what the space holds of maps and owners is what a walk says: for tests, after every step.

use super::Space;
use crate::io::Disk;
use dmerkle::Run;

impl Space {
    /// Whether the maps name exactly these units, which ascend.
    pub(crate) fn audit_reachable(&self, disk: &dyn Disk, reached: &[Run]) -> Result<(), String> {
        let inner = self.inner.lock();
        let mut expected = vec![Vec::new(); inner.rows.len()];
        for run in reached {
            let region = self.geometry.region_of(run.start);
            let of_region = region.and_then(|(region, _)| expected.get_mut(region as usize));
            of_region
                .ok_or_else(|| format!("{run:?} is reached in a region that is not there"))?
                .push(*run);
        }
        for (region, runs) in (0..).zip(&expected) {
            let mut bits = vec![0u8; self.geometry.region_units.div_ceil(8) as usize];
            let start = self.geometry.region_start(region).0;
            for unit in runs.iter().flat_map(|run| run.start.0..run.end()) {
                let index = usize::try_from(unit - start).expect("within a region");
                bits[index / 8] |= 1 << (index % 8);
            }
            let row = inner.rows[region as usize];
            let same = match inner.reachable.bits(region) {
                Some(held) => *held == *bits,
                None if row.has_map() => {
                    let map = self.read_map(disk, region, row);
                    let map = map.map_err(|error| error.to_string())?;
                    let held = self.bits_of(region, row, &map);
                    held.map_err(|error| error.to_string())?[..bits.len()] == *bits
                }
                None => runs.is_empty(),
            };
            if !same {
                return Err(format!("the map of region {region} is not what is reached"));
            }
        }
        Ok(())
    }

    /// Whether so many units wait for their release.
    pub(crate) fn audit_retired(&self, units: u64) -> Result<(), String> {
        let counted = self.inner.lock().retired_units;
        if counted == units {
            return Ok(());
        }
        Err(format!("{units} units are retired, {counted} are counted"))
    }

    /// Whether exactly these runs, which ascend and are disjoint, are in use.
    pub(crate) fn audit_used(&self, disk: &dyn Disk, used: &[Run]) -> Result<(), String> {
        let inner = self.inner.lock();
        let regions = inner.allocator.region_count();
        // What the store need not know yet is asked of a copy.
        let mut copy = None;
        if (0..regions).any(|region| !inner.allocator.is_loaded(region)) {
            let mut all = inner.allocator.clone();
            for region in (0..regions).filter(|region| !inner.allocator.is_loaded(*region)) {
                let row = inner.rows[region as usize];
                let map = self.read_map(disk, region, row);
                let map = map.map_err(|error| error.to_string())?;
                let bits = self.bits_of(region, row, &map);
                all.load(region, bits.map_err(|error| error.to_string())?);
            }
            copy = Some(all);
        }
        let allocator = copy.as_ref().unwrap_or(&inner.allocator);
        let mut used = used.iter().peekable();
        for region in 0..regions {
            let start = self.geometry.region_start(region).0;
            let mut at = start + u64::from(self.geometry.region_reserved_units());
            let end = start + u64::from(self.geometry.region_units);
            let mut free = allocator
                .free_runs(region)
                .expect("all regions are loaded")
                .into_iter()
                .peekable();
            while at < end {
                if let Some(run) = used.next_if(|run| run.start.0 == at) {
                    at = run.end();
                } else if let Some(run) = free.next_if(|run| run.start.0 == at) {
                    at = run.end();
                } else {
                    let (used, free) = (used.peek(), free.peek());
                    return Err(format!(
                        "unit {at} is neither used nor free; next used {used:?}, free {free:?}"
                    ));
                }
            }
            if at > end {
                return Err(format!("a run leaves region {region}"));
            }
        }
        match used.next() {
            None => Ok(()),
            Some(run) => Err(format!("{run:?} is used and lies nowhere")),
        }
    }
}
