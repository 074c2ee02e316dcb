//! Names as clients write them and as metadata knows them.

use berth_oci::{ErrorCode, Problem, RepositoryName};

/// A repository as asked and as stored. They differ only for one-segment names of the default instance, where `app`
/// means `library/app`, as with Docker Hub.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    /// As the client wrote it: what locations and challenges show.
    pub(crate) asked: RepositoryName,
    /// As metadata knows it.
    pub(crate) path: RepositoryName,
}

/// The namespace of one-segment names.
const LIBRARY: &str = "library";

impl Name {
    /// Resolves `asked` within an instance.
    pub(crate) fn resolve(asked: &RepositoryName, default_instance: bool) -> Result<Self, Problem> {
        if asked.depth() > 1 {
            return Ok(Self { asked: asked.clone(), path: asked.clone() });
        }
        if !default_instance {
            return Err(Problem::new(
                ErrorCode::NameInvalid,
                format!("a repository name starts with its namespace: try <namespace>/{asked}"),
            ));
        }
        let path = format!("{LIBRARY}/{asked}")
            .parse()
            .map_err(|error: berth_oci::NameError| Problem::new(ErrorCode::NameInvalid, error.to_string()))?;
        Ok(Self { asked: asked.clone(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_means_library_in_the_default_instance_only() {
        let asked: RepositoryName = "app".parse().unwrap();
        assert_eq!(Name::resolve(&asked, true).unwrap().path.as_str(), "library/app");
        assert!(Name::resolve(&asked, false).unwrap_err().message.contains("<namespace>/app"));
        let asked: RepositoryName = "team/app".parse().unwrap();
        assert_eq!(Name::resolve(&asked, false).unwrap().path, asked);
    }
}
