//! The door that every call goes through: panics stop here, and the sentence of an error is kept
//! for the thread that made it.

use crate::status::Status;
use engine::Error;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// What [`dynomite_last_error`] points into, until this thread's next failure replaces it.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// A call that did not do what was asked, and the sentence that says why.
pub(crate) struct Failure {
    status: Status,
    sentence: String,
}

impl Failure {
    pub(crate) fn argument(sentence: &str) -> Self {
        Self {
            status: Status::InvalidArgument,
            sentence: sentence.to_owned(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            status: Status::of(&error),
            sentence: error.to_string(),
        }
    }
}

/// Runs `body`, and turns what it returns, or panics with, into a status.
pub(crate) fn guard(body: impl FnOnce() -> Result<Status, Failure>) -> Status {
    // What a panic may leave half done lies inside the engine, whose locks do not poison and whose
    // file is fit for a crash at any moment; nothing of ours outlives the call.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => {
            remember(failure.sentence);
            failure.status
        }
        Err(payload) => {
            // A payload whose drop panics would unwind into C after all.
            std::mem::forget(payload);
            remember(
                "a defect in libdynomite, please report it; its words are on standard error".into(),
            );
            Status::Panic
        }
    }
}

fn remember(sentence: String) {
    let mut bytes = sentence.into_bytes();
    bytes.retain(|&byte| byte != 0);
    let sentence = CString::new(bytes).unwrap_or_default();
    // A thread that is ending has nobody left to read it.
    let _ = LAST_ERROR.try_with(|last| last.replace(sentence));
}

/// What the last failed call of this thread has to say: a sentence, never NULL. It stays until the
/// next failed call of this thread; do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn dynomite_last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_panic_becomes_a_status_with_a_sentence() {
        let status = guard(|| panic!("as planned by this test"));
        assert_eq!(status, Status::Panic);
        // SAFETY: the call returns a string that lives until this thread fails again.
        let sentence = unsafe { CStr::from_ptr(dynomite_last_error()) };
        assert!(sentence.to_str().unwrap().contains("defect"));
    }
}
