//! Editions: what an instance may have, as data. A limit, a rate or a feature is asked here and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A capability that some editions lack.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Feature {
            $($(#[$doc])* $name,)*
        }

        impl Feature {
            /// All features.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in data, answers and documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

features! {
    /// Artifacts that are no images.
    OciArtifact = "oci-artifact";
    /// Tags that can't move.
    TagImmutability = "tag-immutability";
    /// Rules that clean up tags.
    Retention = "retention";
    /// Helm charts.
    HelmChart = "helm-chart";
    /// Builds with a cache.
    BuildCache = "build-cache";
    /// Builds for several platforms.
    BuildMultiArch = "build-multi-arch";
    /// Scanning.
    VulnerabilityScan = "vulnerability-scan";
    /// Scanning by several engines.
    MultiEngineScan = "multi-engine-scan";
    /// Patched images.
    VulnerabilityFix = "vulnerability-fix";
    /// Access lists.
    NetworkAcl = "network-acl";
    /// The audit.
    Audit = "audit";
    /// Indexes for lazy loading.
    OnDemandIndex = "on-demand-index";
    /// Images converted for lazy loading.
    OnDemandFull = "on-demand-full";
    /// Receives from other instances.
    SyncTarget = "sync-target";
    /// Sends to other instances.
    SyncSource = "sync-source";
    /// Event rules.
    EventNotification = "event-notification";
    /// Triggers of a repository.
    RepositoryTrigger = "repository-trigger";
    /// Pulls from clusters without a password.
    PasswordlessPull = "passwordless-pull";
    /// Hosts of the tenant's own.
    CustomDomain = "custom-domain";
    /// Import from Harbor.
    HarborImport = "harbor-import";
    /// Mirrors of outside repositories.
    ArtifactSubscription = "artifact-subscription";
    /// Distribution from peer to peer.
    P2p = "p2p";
    /// Policies that stop what is at risk.
    RiskBlocking = "risk-blocking";
    /// Signatures.
    SignAndVerify = "sign-and-verify";
    /// Delivery chains.
    DeliveryChain = "delivery-chain";
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Feature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|feature| feature.as_str() == text);
        found.ok_or_else(|| format!("no feature named {text:?}"))
    }
}

/// A number, or none: `None` is unlimited.
pub type Limit = Option<u64>;

/// How many manifest reads a second an instance is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullRate {
    /// Of what is left, without a promise.
    BestEffort,
    /// This many, and no more.
    PerSecond(u64),
    /// No bound.
    Unlimited,
}

impl PullRate {
    /// Reads a second, where they are bounded.
    pub fn per_second(self) -> Option<u64> {
        match self {
            Self::PerSecond(rate) => Some(rate),
            Self::BestEffort | Self::Unlimited => None,
        }
    }
}

impl fmt::Display for PullRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BestEffort => f.write_str("best-effort"),
            Self::PerSecond(rate) => rate.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Namespaces of images.
    pub image_namespaces: Limit,
    /// Repositories of images, public and private together.
    pub image_repositories: Limit,
    /// Namespaces of charts.
    pub chart_namespaces: Limit,
    /// Repositories of charts.
    pub chart_repositories: Limit,
    /// Builds at the same time.
    pub concurrent_builds: Limit,
    /// Private networks that may reach the instance.
    pub linked_private_networks: Limit,
}

/// An edition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edition {
    /// Its name.
    pub name: String,
    /// What is counted.
    pub limits: Limits,
    /// Manifest reads a second.
    pub pull_rate: PullRate,
    /// How many parts a repository's name may have after its namespace.
    pub repository_depth: Limit,
    /// What it has.
    pub features: BTreeSet<Feature>,
}

/// What an instance has beyond its edition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddOns {
    /// More namespaces, of images as of charts, in steps of [`AddOns::NAMESPACE_STEP`].
    pub namespaces: u64,
    /// More repositories, of images as of charts, in steps of [`AddOns::REPOSITORY_STEP`].
    pub repositories: u64,
    /// More private networks.
    pub private_networks: u64,
}

impl AddOns {
    /// Namespaces are added by so many.
    pub const NAMESPACE_STEP: u64 = 5;
    /// Repositories are added by so many.
    pub const REPOSITORY_STEP: u64 = 1000;
    /// More of anything than that is a mistake.
    const MOST: u64 = 1_000_000_000;

    /// Whether these can be granted.
    pub fn check(&self) -> Result<(), String> {
        let steps = [
            ("namespaces", self.namespaces, Self::NAMESPACE_STEP),
            ("repositories", self.repositories, Self::REPOSITORY_STEP),
        ];
        for (what, number, step) in steps {
            if number % step != 0 {
                return Err(format!("{what} are added in steps of {step}, so {number} is not possible"));
            }
        }
        let most = self.namespaces.max(self.repositories).max(self.private_networks);
        if most > Self::MOST {
            Err(format!("at most {} of anything can be added", Self::MOST))
        } else {
            Ok(())
        }
    }
}

impl Edition {
    /// The limits of an instance of this edition with add-ons. What the edition does not have at all (0) is not added
    /// to.
    pub fn limits_with(&self, add_ons: &AddOns) -> Limits {
        let add = |limit: Limit, more: u64| match limit {
            Some(0) | None => limit,
            Some(limit) => Some(limit.saturating_add(more)),
        };
        let Limits { concurrent_builds, .. } = self.limits;
        Limits {
            image_namespaces: add(self.limits.image_namespaces, add_ons.namespaces),
            image_repositories: add(self.limits.image_repositories, add_ons.repositories),
            chart_namespaces: add(self.limits.chart_namespaces, add_ons.namespaces),
            chart_repositories: add(self.limits.chart_repositories, add_ons.repositories),
            concurrent_builds,
            linked_private_networks: add(self.limits.linked_private_networks, add_ons.private_networks),
        }
    }
}

/// Why editions could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EditionError(String);

#[derive(Clone, serde::Deserialize)]
#[serde(untagged)]
enum Number {
    Count(u64),
    Word(String),
}

/// An edition as it is written down; what is absent is inherited.
#[derive(Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct EditionData {
    inherits: Option<String>,
    image_namespaces: Option<Number>,
    image_repositories: Option<Number>,
    chart_namespaces: Option<Number>,
    chart_repositories: Option<Number>,
    concurrent_builds: Option<Number>,
    linked_private_networks: Option<Number>,
    pull_rate: Option<Number>,
    repository_depth: Option<Number>,
    #[serde(default)]
    features: BTreeSet<Feature>,
}

/// The editions of a deployment, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Editions(BTreeMap<String, Edition>);

/// The edition of the embedded default instance.
pub const UNLIMITED: &str = "unlimited";

/// How far editions may inherit from one another.
const MOST_ANCESTORS: usize = 8;

fn error<T>(name: &str, message: impl fmt::Display) -> Result<T, EditionError> {
    Err(EditionError(format!("edition {name}: {message}")))
}

fn limit(
    name: &str,
    field: &str,
    own: Option<&Number>,
    inherited: Option<Limit>,
) -> Result<Limit, EditionError> {
    match (own, inherited) {
        (Some(Number::Count(count)), _) if i64::try_from(*count).is_ok() => Ok(Some(*count)),
        (Some(Number::Word(word)), _) if word == "unlimited" => Ok(None),
        (Some(_), _) => error(name, format!("{field} is a count or \"unlimited\"")),
        (None, Some(inherited)) => Ok(inherited),
        (None, None) => error(name, format!("{field} is missing")),
    }
}

impl Editions {
    /// The product's editions.
    pub fn built_in() -> Self {
        Self::read(include_str!("../data/editions.toml")).expect("the built-in editions are tested")
    }

    /// The product's editions and an operator's own, in TOML: one table each, as in the product's. One of the product's
    /// names can't be taken.
    pub fn with(own: &str) -> Result<Self, EditionError> {
        let built_in: BTreeMap<String, EditionData> = toml::from_str(include_str!("../data/editions.toml"))
            .map_err(|error| EditionError(error.to_string()))?;
        let mut all: BTreeMap<String, EditionData> =
            toml::from_str(own).map_err(|error| EditionError(error.to_string()))?;
        for (name, data) in built_in {
            if all.insert(name.clone(), data).is_some() {
                return error(&name, "is one of the product's own; choose another name");
            }
        }
        Self::resolve(&all)
    }

    fn read(text: &str) -> Result<Self, EditionError> {
        Self::resolve(&toml::from_str(text).map_err(|error| EditionError(error.to_string()))?)
    }

    fn resolve(all: &BTreeMap<String, EditionData>) -> Result<Self, EditionError> {
        let editions = all.keys().map(|name| Ok((name.clone(), edition(all, name, 0)?)));
        editions.collect::<Result<_, _>>().map(Self)
    }

    /// An edition by its name.
    pub fn get(&self, name: &str) -> Option<&Edition> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Edition> {
        self.0.values()
    }

    /// Whether an instance of `edition` has a feature; if not, which editions have it.
    pub fn require(&self, edition: &str, feature: Feature) -> Result<(), EditionRequired> {
        if self.get(edition).is_some_and(|edition| edition.features.contains(&feature)) {
            return Ok(());
        }
        let having = self.all().filter(|edition| edition.features.contains(&feature));
        Err(EditionRequired { feature, editions: having.map(|edition| edition.name.clone()).collect() })
    }
}

fn edition(all: &BTreeMap<String, EditionData>, name: &str, depth: usize) -> Result<Edition, EditionError> {
    let Some(data) = all.get(name) else { return error(name, "there is none") };
    if depth > MOST_ANCESTORS {
        return error(name, "inherits from itself, or over too many steps");
    }
    let parent = match &data.inherits {
        Some(parent) => Some(edition(all, parent, depth + 1)?),
        None => None,
    };
    let parent = parent.as_ref();
    let count = |field: &str, own: &Option<Number>, inherited: Option<Limit>| {
        limit(name, field, own.as_ref(), inherited)
    };
    let limits = parent.map(|parent| parent.limits);
    let pull_rate = match (&data.pull_rate, parent) {
        (Some(Number::Count(rate)), _) if *rate > 0 => PullRate::PerSecond(*rate),
        (Some(Number::Word(word)), _) if word == "best-effort" => PullRate::BestEffort,
        (Some(Number::Word(word)), _) if word == "unlimited" => PullRate::Unlimited,
        (None, Some(parent)) => parent.pull_rate,
        _ => return error(name, "pull_rate is reads a second, \"best-effort\" or \"unlimited\""),
    };
    let mut features = data.features.clone();
    features.extend(parent.iter().flat_map(|parent| &parent.features));
    Ok(Edition {
        name: name.to_owned(),
        limits: Limits {
            image_namespaces: count(
                "image_namespaces",
                &data.image_namespaces,
                limits.map(|l| l.image_namespaces),
            )?,
            image_repositories: count(
                "image_repositories",
                &data.image_repositories,
                limits.map(|l| l.image_repositories),
            )?,
            chart_namespaces: count(
                "chart_namespaces",
                &data.chart_namespaces,
                limits.map(|l| l.chart_namespaces),
            )?,
            chart_repositories: count(
                "chart_repositories",
                &data.chart_repositories,
                limits.map(|l| l.chart_repositories),
            )?,
            concurrent_builds: count(
                "concurrent_builds",
                &data.concurrent_builds,
                limits.map(|l| l.concurrent_builds),
            )?,
            linked_private_networks: count(
                "linked_private_networks",
                &data.linked_private_networks,
                limits.map(|l| l.linked_private_networks),
            )?,
        },
        pull_rate,
        repository_depth: count(
            "repository_depth",
            &data.repository_depth,
            parent.map(|parent| parent.repository_depth),
        )?,
        features,
    })
}

/// An instance's edition lacks something.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{feature} needs another edition: {}", .editions.join(", "))]
pub struct EditionRequired {
    /// What is lacking.
    pub feature: Feature,
    /// The editions that have it.
    pub editions: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_editions_hold_what_the_product_promises() {
        let editions = Editions::built_in();
        let row = |name: &str| {
            let edition = editions.get(name).unwrap();
            let limits = edition.limits;
            (limits.image_namespaces, limits.image_repositories, limits.concurrent_builds, edition.pull_rate)
        };
        assert_eq!(row("personal"), (Some(3), Some(300), Some(1), PullRate::BestEffort));
        assert_eq!(row("basic"), (Some(15), Some(1000), Some(3), PullRate::PerSecond(250)));
        assert_eq!(row("standard"), (Some(25), Some(3000), Some(5), PullRate::PerSecond(500)));
        assert_eq!(row("advanced"), (Some(50), Some(5000), Some(10), PullRate::PerSecond(1000)));
        assert_eq!(row(UNLIMITED), (None, None, None, PullRate::Unlimited));
        assert_eq!(editions.get("personal").unwrap().repository_depth, Some(1));
        assert_eq!(editions.get(UNLIMITED).unwrap().features.len(), Feature::ALL.len());
        let refused = editions.require("basic", Feature::RiskBlocking).unwrap_err();
        assert_eq!(refused.editions, ["advanced", UNLIMITED]);
        assert_eq!(refused.to_string(), "risk-blocking needs another edition: advanced, unlimited");
        assert_eq!(editions.require("standard", Feature::Retention), Ok(()));
        assert!(editions.require("no such", Feature::Retention).is_err());
    }

    #[test]
    fn add_ons_add_to_what_there_is_and_come_in_steps() {
        let editions = Editions::built_in();
        let more = AddOns { namespaces: 10, repositories: 2000, private_networks: 1 };
        more.check().unwrap();
        let limits = editions.get("basic").unwrap().limits_with(&more);
        assert_eq!((limits.image_namespaces, limits.chart_repositories), (Some(25), Some(3000)));
        assert_eq!(limits.linked_private_networks, Some(4));
        assert_eq!(editions.get("personal").unwrap().limits_with(&more).chart_namespaces, Some(0));
        assert_eq!(editions.get(UNLIMITED).unwrap().limits_with(&more).image_namespaces, None);
        assert!(AddOns { namespaces: 3, ..AddOns::default() }.check().unwrap_err().contains("steps of 5"));
    }

    #[test]
    fn an_operator_may_define_editions_and_mistakes_are_named() {
        let field = "[field]\ninherits = \"advanced\"\nimage_namespaces = 500\npull_rate = \"unlimited\"\n";
        let editions = Editions::with(field).unwrap();
        assert_eq!(editions.get("field").unwrap().limits.image_namespaces, Some(500));
        assert!(editions.get("basic").is_some());
        for (text, named) in [
            ("[basic]\ninherits = \"advanced\"\n", "product's own"),
            ("[a]\ninherits = \"b\"\n[b]\ninherits = \"a\"\n", "inherits from itself"),
            ("[a]\ninherits = \"nothing\"\n", "there is none"),
            ("[a]\nfeatures = [\"flight\"]\n", "flight"),
            ("[a]\ncolour = 1\n", "colour"),
            ("[a]\ninherits = \"basic\"\npull_rate = 0\n", "pull_rate"),
            ("[a]\ninherits = \"basic\"\nimage_namespaces = \"many\"\n", "image_namespaces"),
            ("[a]\npull_rate = 1\n", "image_namespaces is missing"),
        ] {
            let refused = Editions::with(text).unwrap_err().to_string();
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }
}
