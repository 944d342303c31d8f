//! Answering a peer that sends arbitrary frames.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::diff_frame);
