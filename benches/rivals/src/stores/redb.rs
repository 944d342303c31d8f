//! redb: a table of byte slices. Its cache is one setting for reads and writes. Buffered commits
//! are `Durability::None`, which its documentation names for that.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

struct Redb(Database);

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let cache_bytes = if setup.tight {
        setup.cache_bytes + setup.write_buffer_bytes
    } else {
        setup.cache_bytes
    };
    let database = Database::builder()
        .set_cache_size(usize::try_from(cache_bytes).expect("64 bits"))
        .create(setup.dir.join("redb"))
        .expect("opened");
    let begun = database.begin_write().expect("begun");
    begun.open_table(TABLE).expect("a table");
    begun.commit().expect("committed");
    Box::new(Redb(database))
}

impl Rival for Redb {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        // A durable commit makes all before it durable.
        let begun = self.0.begin_write().expect("begun");
        begun.commit().expect("committed");
    }

    fn settle(&self) {
        // Two: what a commit frees, the next but one may reuse.
        self.flush();
        self.flush();
    }
}

impl Session for &Redb {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        let mut begun = self.0.begin_write().expect("begun");
        begun
            .set_durability(match keep {
                Keep::Durable => Durability::Immediate,
                Keep::Buffered => Durability::None,
            })
            .expect("a durability");
        {
            let mut table = begun.open_table(TABLE).expect("a table");
            for change in changes {
                match *change {
                    Change::Put(key, value) => drop(table.insert(key, value).expect("put")),
                    Change::Delete(key) => drop(table.remove(key).expect("removed")),
                }
            }
        }
        begun.commit().expect("committed");
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let begun = self.0.begin_read().expect("begun");
        let table = begun.open_table(TABLE).expect("a table");
        let value = table.get(key).expect("read");
        value.map(|value| see(value.value())).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let begun = self.0.begin_read().expect("begun");
        let table = begun.open_table(TABLE).expect("a table");
        for (at, key) in keys.iter().enumerate() {
            let value = table.get(key.as_slice()).expect("read");
            see(at, value.expect("it is there").value());
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let begun = self.0.begin_read().expect("begun");
        let table = begun.open_table(TABLE).expect("a table");
        let mut seen = 0;
        for entry in table.range(low..).expect("a range").take(limit as usize) {
            let (key, value) = entry.expect("read");
            see(key.value(), value.value());
            seen += 1;
        }
        seen
    }
}
