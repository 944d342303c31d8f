//! The primitives of the engine over those of shuttle, with the signatures that it knows.

pub(crate) use foldhash::fast::FixedState as HashState;
pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

use quick_cache::Weighter;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// `parking_lot::MutexGuard`. Empty only while it is unlocked or waits.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    fn hold(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            held: Some(self.hold()),
        }
    }
}

impl<T> MutexGuard<'_, T> {
    pub(crate) fn unlocked<R>(guard: &mut Self, act: impl FnOnce() -> R) -> R {
        guard.held = None;
        let answer = act();
        guard.held = Some(guard.mutex.hold());
        answer
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is locked")
    }
}

/// `parking_lot::Condvar`; no wait ends by time.
#[derive(Default)]
pub(crate) struct Condvar {
    told: shuttle::sync::Condvar,
    point: atomic::AtomicBool,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        // Others run between the last look at what is waited for and the sleep, as far as the
        // lock lets them.
        self.point.load(atomic::Ordering::SeqCst);
        let held = guard.held.take().expect("it is locked");
        let held = self.told.wait(held).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) {
        self.wait(guard);
    }

    pub(crate) fn notify_one(&self) {
        self.told.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.told.notify_all();
    }
}

/// `parking_lot::RwLock`.
#[derive(Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `std::sync::OnceLock`, whose `wait` the checker must see.
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    lock: Mutex<()>,
    told: Condvar,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            lock: Mutex::default(),
            told: Condvar::default(),
        }
    }
}

impl<T> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnceLock")
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let _locked = self.lock.lock();
        let set = self.value.set(value);
        self.told.notify_all();
        set
    }

    pub(crate) fn get(&self) -> Option<&T> {
        let _locked = self.lock.lock();
        self.value.get()
    }

    pub(crate) fn wait(&self) -> &T {
        let mut locked = self.lock.lock();
        loop {
            if let Some(value) = self.value.get() {
                return value;
            }
            self.told.wait(&mut locked);
        }
    }
}

/// `arc_swap::ArcSwap`, each call a point of the schedule.
pub(crate) struct ArcSwap<T> {
    value: arc_swap::ArcSwap<T>,
    point: atomic::AtomicBool,
}

impl<T> ArcSwap<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self {
            value: arc_swap::ArcSwap::new(value),
            point: atomic::AtomicBool::new(false),
        }
    }

    fn meet(&self) {
        self.point.load(atomic::Ordering::SeqCst);
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<T>> {
        self.meet();
        self.value.load()
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.meet();
        self.value.load_full()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        self.meet();
        self.value.store(value);
        self.meet();
    }
}

/// `quick_cache::sync::Cache`, as far as we use it: what came first leaves first, so that a
/// schedule repeats.
pub(crate) struct Cache<K, V, W> {
    /// Never held across a point of the schedule.
    held: std::sync::Mutex<Held<K, V>>,
    weighter: W,
    point: atomic::AtomicBool,
}

struct Held<K, V> {
    weight_max: u64,
    entries: VecDeque<(K, V, u64)>,
    hits: u64,
    misses: u64,
}

impl<K: Eq, V: Clone, W: Weighter<K, V>> Cache<K, V, W> {
    pub(crate) fn with_weighter(_items: usize, weight_max: u64, weighter: W) -> Self {
        Self {
            held: std::sync::Mutex::new(Held {
                weight_max,
                entries: VecDeque::new(),
                hits: 0,
                misses: 0,
            }),
            weighter,
            point: atomic::AtomicBool::new(false),
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held<K, V>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.point.load(atomic::Ordering::SeqCst);
        let mut held = self.held();
        let found = held.entries.iter().find(|(other, ..)| other == key);
        let found = found.map(|(_, value, _)| value.clone());
        match found {
            Some(_) => held.hits += 1,
            None => held.misses += 1,
        }
        found
    }

    pub(crate) fn peek(&self, key: &K) -> Option<V> {
        self.point.load(atomic::Ordering::SeqCst);
        let held = self.held();
        let found = held.entries.iter().find(|(other, ..)| other == key);
        found.map(|(_, value, _)| value.clone())
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        self.point.load(atomic::Ordering::SeqCst);
        let weight = self.weighter.weight(&key, &value);
        let mut held = self.held();
        held.entries.retain(|(other, ..)| *other != key);
        held.entries.push_back((key, value, weight));
        held.fit();
    }

    pub(crate) fn set_capacity(&self, weight_max: u64) {
        self.point.load(atomic::Ordering::SeqCst);
        let mut held = self.held();
        held.weight_max = weight_max;
        held.fit();
    }

    pub(crate) fn remove(&self, key: &K) {
        self.point.load(atomic::Ordering::SeqCst);
        self.held().entries.retain(|(other, ..)| other != key);
    }

    pub(crate) fn weight(&self) -> u64 {
        self.held().weight()
    }

    pub(crate) fn hits(&self) -> u64 {
        self.held().hits
    }

    pub(crate) fn misses(&self) -> u64 {
        self.held().misses
    }
}

impl<K, V> Held<K, V> {
    fn fit(&mut self) {
        while self.weight() > self.weight_max {
            self.entries.pop_front();
        }
    }

    fn weight(&self) -> u64 {
        self.entries.iter().map(|(.., weight)| weight).sum()
    }
}
