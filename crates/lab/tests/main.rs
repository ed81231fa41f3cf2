//! The lab: Linux's protocols, our own worlds, and the pictures of both. One program, so that it is linked once.

mod kernel_sources;
mod linux_corrections;
mod linux_matrix;
mod linux_mutants;
mod linux_names;
mod linux_real_kernel;
mod linux_sources;
mod linux_stateright;
mod linux_verdicts;
mod ours;
mod ours_planted;
mod picture;
mod picture_html;
mod sites;
mod tree;
