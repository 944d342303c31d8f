//! The engine's allocator against a list of units.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::allocator);
