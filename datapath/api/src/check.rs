//! Checks between objects: names, listeners that want one address, loops of rule lists. What is wrong with one object
//! by itself is found where it is read.

mod addresses;
mod loops;
mod names;

use crate::config::Config;
use crate::problem::Problems;

pub(crate) fn check(config: &Config, problems: &mut Problems) {
    names::check(config, problems);
    addresses::check(config, problems);
    loops::check(config, problems);
}
