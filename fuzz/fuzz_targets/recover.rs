//! Opening a file of arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::recover);
