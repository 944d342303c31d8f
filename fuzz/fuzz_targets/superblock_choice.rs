//! Which of four superblocks is opened.
#![cfg_attr(fuzzing, no_main)]

dynomite_fuzz::target!(dynomite_fuzz::superblock_choice);
