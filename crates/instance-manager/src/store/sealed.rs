//! Every secret that the root key seals, wherever it is kept.

use berth_database::{Statement, args};

use super::{Store, statements as sql};
use crate::Error;

/// Where such secrets are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sealed {
    TokenKeys,
    InstanceKeys,
    Stores,
    IdentityProviders,
}

impl Sealed {
    fn read(self) -> &'static Statement {
        match self {
            Self::TokenKeys => &sql::SEALED_TOKEN_KEYS,
            Self::InstanceKeys => &sql::SEALED_INSTANCE_KEYS,
            Self::Stores => &sql::SEALED_STORES,
            Self::IdentityProviders => &sql::SEALED_PROVIDERS,
        }
    }

    fn write(self) -> &'static Statement {
        match self {
            Self::TokenKeys => &sql::RESEAL_TOKEN_KEY,
            Self::InstanceKeys => &sql::RESEAL_INSTANCE_KEY,
            Self::Stores => &sql::RESEAL_STORE,
            Self::IdentityProviders => &sql::RESEAL_PROVIDER,
        }
    }
}

impl Store {
    /// All secrets of a place, by the ids of their rows: some for each instance of the deployment.
    pub(crate) async fn sealed(&self, place: Sealed) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let rows = self.database.read_all(place.read(), args![]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    }

    /// Puts a secret that was sealed again in the place of the former one.
    pub(crate) async fn reseal(&self, place: Sealed, id: &str, envelope: Vec<u8>) -> Result<(), Error> {
        let id = id.to_owned();
        self.database
            .write("reseal", move |tx| {
                let (id, envelope) = (id.clone(), envelope.clone());
                Box::pin(async move {
                    tx.execute(place.write(), args![id, envelope]).await?;
                    Ok(())
                })
            })
            .await
    }
}
