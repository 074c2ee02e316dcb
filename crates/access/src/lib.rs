//! Who someone is and what they may do: passwords, access tokens (issue and verify), the decision over one principal's
//! grants, and secrets sealed at rest. No I/O but the root key's file; it knows no database and no network.

mod envelope;
mod foreign;
#[cfg(test)]
mod foreign_tests;
mod key;
mod password;
mod policy;
mod seal;
mod sign;
mod token;
mod verify;
#[cfg(test)]
mod verify_tests;

pub use envelope::{DATA_KEY_BYTES, InstanceKey, new_data_key};
pub use foreign::{
    FOREIGN_LEEWAY, ForeignClaims, ForeignError, ForeignKeys, MAX_FOREIGN_TOKEN_BYTES, peek_issuer,
    verify_foreign,
};
pub use key::{KeyError, KeySet, PublicKey, SigningKey};
pub use password::{PasswordConfig, PasswordError, Passwords, random_secret, secret_hash};
pub use policy::{Decider, Grant, GrantScope, Place, PrincipalGrants, reasons};
pub use seal::{RootKey, SealError, Sealer};
pub use sign::{Claim, LIFETIME, SignedToken, Signer};
pub use token::{AccessEntry, AccessToken, Basis, Bound, TokenError};
pub use verify::{LEEWAY, MAX_TOKEN_BYTES, NotBefores, Verifier};
