//! Asking a peer that answers anything.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::diff_peer);
