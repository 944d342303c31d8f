//! A node of the tree on arbitrary bytes.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::leaf_and_branch);
