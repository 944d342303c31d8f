//! Crashes and rot of a log: what was acknowledged is there, or called corrupt.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::log_scan);
