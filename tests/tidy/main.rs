//! The house checks itself: layers, rooms, banned calls, module docs, pinned migrations.
//!
//! Each test reads the sources as text. A finding names file and line, so that it can be mended without reading this.

mod faults;
mod layers;
mod readme;
mod rooms;
mod source;
