//! An entry of the catalog on arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::catalog);
