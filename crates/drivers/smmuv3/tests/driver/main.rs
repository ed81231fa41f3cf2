//! The driver on the software machine: ordinary life, broken hardware, planted bugs, several threads.

mod basic;
mod broken;
mod data_path;
mod dead;
mod keeper;
mod meddler;
mod planted;
mod threads;
mod unpublished;
mod world;
