//! Black-box suites against the built binary; see the folders of this package.
