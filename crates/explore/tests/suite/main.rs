//! The explorer as its users see it.

mod comparison;
mod crosscheck;
mod models;
mod reduction;
mod seed_race;
