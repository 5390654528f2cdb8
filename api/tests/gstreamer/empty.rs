//! Empty: this package has nothing but dependencies.
