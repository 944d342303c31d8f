//! A superblock on arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::superblock);
