//! hubgate
