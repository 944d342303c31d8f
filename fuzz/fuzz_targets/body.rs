//! An entry's body on arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::body);
