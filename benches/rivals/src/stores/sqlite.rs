//! SQLite: WAL; `synchronous` FULL where commits are durable and NORMAL where they are buffered. A
//! connection per thread, one writer at a time behind a lock (waiting for it is cheaper than being
//! told that the database is busy), prepared statements, pages mapped. Small rows lie in the
//! primary key's own tree (WITHOUT ROWID), large ones beside it with pages of 16 KiB, as its
//! documentation advises for both.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use std::path::PathBuf;
use std::sync::Mutex;

struct Sqlite {
    file: PathBuf,
    pragmas: String,
    writing: Mutex<()>,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let page = if setup.large { 16384 } else { 4096 };
    let synchronous = if setup.buffered { "NORMAL" } else { "FULL" };
    let mapped: u64 = if setup.tight { 0 } else { 2_147_418_112 };
    let cached = setup.cache_bytes >> 10;
    let checkpoint = setup.write_buffer_bytes / page;
    let pragmas = format!(
        "PRAGMA page_size={page}; PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};
         PRAGMA cache_size=-{cached}; PRAGMA mmap_size={mapped};
         PRAGMA wal_autocheckpoint={checkpoint}; PRAGMA busy_timeout=60000; PRAGMA temp_store=MEMORY;"
    );
    let store = Sqlite {
        file: setup.dir.join("sqlite"),
        pragmas,
        writing: Mutex::new(()),
    };
    let form = if setup.large { "" } else { "WITHOUT ROWID" };
    let table = format!("CREATE TABLE IF NOT EXISTS rows(k BLOB PRIMARY KEY, v BLOB) {form};");
    store.connect().execute_batch(&table).expect("a table");
    Box::new(store)
}

impl Sqlite {
    fn connect(&self) -> Connection {
        let connection = Connection::open(&self.file).expect("opened");
        connection.execute_batch(&self.pragmas).expect("set");
        connection.set_prepared_statement_cache_capacity(16);
        connection
    }
}

impl Rival for Sqlite {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Connected {
            store: self,
            connection: self.connect(),
        })
    }

    fn flush(&self) {
        // FULL syncs the log at this commit, and with it all before.
        let connection = self.connect();
        connection
            .execute_batch(
                "PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS flushed(n INTEGER);
                 INSERT INTO flushed VALUES (1);",
            )
            .expect("flushed");
    }

    fn settle(&self) {
        let connection = self.connect();
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("a checkpoint");
    }
}

struct Connected<'a> {
    store: &'a Sqlite,
    connection: Connection,
}

const GET: &str = "SELECT v FROM rows WHERE k = ?1";
const PUT: &str = "INSERT OR REPLACE INTO rows(k, v) VALUES (?1, ?2)";
const DELETE: &str = "DELETE FROM rows WHERE k = ?1";
const SCAN: &str = "SELECT k, v FROM rows WHERE k >= ?1 ORDER BY k LIMIT ?2";

impl Connected<'_> {
    fn prepare(&self, text: &str) -> CachedStatement<'_> {
        self.connection.prepare_cached(text).expect("prepared")
    }

    fn change(&self, change: &Change<'_>) {
        match *change {
            Change::Put(key, value) => self.prepare(PUT).execute(params![key, value]),
            Change::Delete(key) => self.prepare(DELETE).execute(params![key]),
        }
        .expect("changed");
    }

    fn run(&self, text: &str) {
        self.prepare(text).execute([]).expect("run");
    }
}

impl Session for Connected<'_> {
    fn write(&mut self, changes: &[Change<'_>], _: Keep) {
        let _one = self.store.writing.lock().expect("no panic");
        if let [change] = changes {
            return self.change(change);
        }
        self.run("BEGIN IMMEDIATE");
        changes.iter().for_each(|change| self.change(change));
        self.run("COMMIT");
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.prepare(GET)
            .query_row(params![key], |row| {
                see(row.get_ref(0)?.as_blob().expect("a blob"));
                Ok(())
            })
            .optional()
            .expect("read")
            .is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        self.run("BEGIN");
        for (at, key) in keys.iter().enumerate() {
            assert!(self.get(key, &mut |value| see(at, value)), "it is there");
        }
        self.run("COMMIT");
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.prepare(SCAN);
        let mut rows = statement.query(params![low, limit]).expect("read");
        let mut seen = 0;
        while let Some(row) = rows.next().expect("read") {
            let key = row.get_ref(0).expect("read").as_blob().expect("a blob");
            let value = row.get_ref(1).expect("read").as_blob().expect("a blob");
            see(key, value);
            seen += 1;
        }
        seen
    }
}
