//! A tree against a map.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::tree);
