//! The explorer as its users see it.

mod comparison;
mod crosscheck;
mod equal_threads;
mod models;
mod modes;
mod reduction;
mod rules;
mod seed_race;
mod symmetry;
