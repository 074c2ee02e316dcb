//! Lists of namespaces and repositories for people, of what they may see. A page is found in an index wherever it begins
//! and whatever it is narrowed to; docs of `list_statements` say how.

use berth_database::{Arg, Row, TextList, args};
use berth_model::InstanceId;
use berth_oci::{ErrorCode, RepositoryName};

use crate::{
    Metadata,
    error::{Error, Result},
    managed::{self, ManagedRepository, Namespace},
    repository::Readable,
    store::{list_statements as lists, statements as sql},
    terms,
};

/// The most entries of a page for people.
pub(crate) const MOST: u32 = 100;

/// After every name and id that there is.
const LAST: &str = "~";

/// As many as were asked for, if that is a page.
pub(crate) fn page_size(limit: u32) -> u32 {
    if (1..=MOST).contains(&limit) { limit } else { MOST }
}

/// A position that nobody gave out.
pub(crate) fn no_position() -> Error {
    Error::new(ErrorCode::PaginationInvalid, "this position was not given by such a list; begin at its start")
}

/// Which repositories are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Sought {
    /// None: all.
    pub(crate) readable: Option<Readable>,
    /// Empty: in all namespaces.
    pub(crate) namespace: String,
    pub(crate) search: String,
    pub(crate) public: Option<bool>,
    pub(crate) order: Order,
    pub(crate) limit: u32,
    pub(crate) after: String,
}

/// How a list is ordered where nothing is searched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Nobody said.
    Any,
    Name,
    Newest,
}

impl Order {
    /// Reads an order; `newest` is its name for what came last first.
    pub(crate) fn read(order: &str, newest: &str) -> Result<Self> {
        match order {
            "" => Ok(Self::Any),
            "name" => Ok(Self::Name),
            other if other == newest => Ok(Self::Newest),
            _ => {
                let message = format!("it can be ordered by name or {newest}");
                Err(Error::new(ErrorCode::RequestInvalid, message))
            }
        }
    }
}

/// Where to look, as far as this is about what is public and what is not.
#[derive(Default)]
struct Places {
    public: [TextList; 2],
    private: [TextList; 2],
    repositories: TextList,
}

impl Places {
    /// `namespace` is the one that it is narrowed to.
    fn of(sought: &Sought, instance: &str, namespace: Option<&str>) -> Self {
        let mut places = Self::default();
        let one = |id: &str| TextList(vec![id.to_owned()]);
        let (scope, id) = namespace.map_or((0, instance), |id| (1, id));
        if sought.public != Some(false) {
            places.public[scope] = one(id);
        }
        if sought.public == Some(true) {
            return places;
        }
        let granted = match &sought.readable {
            Some(readable) if !readable.everything => readable,
            _ => {
                places.private[scope] = one(id);
                return places;
            }
        };
        match namespace {
            None => {
                places.private[1] = granted.namespaces.clone();
                places.repositories = granted.repositories.clone();
            }
            Some(id) if granted.namespaces.0.iter().any(|one| one == id) => places.private[1] = one(id),
            Some(_) => places.repositories = granted.repositories.clone(),
        }
        places
    }

    fn into_args(self) -> Vec<Arg> {
        let ([of_instance, of_namespaces], [private_of_instance, private_of_namespaces]) =
            (self.public, self.private);
        args![of_instance, private_of_instance, of_namespaces, private_of_namespaces, self.repositories]
    }
}

/// A position in one of the orders, as a text that says in which.
enum Position {
    Path(String),
    Id(String),
    Term(String, String),
}

impl Position {
    fn text(&self) -> String {
        match self {
            Self::Path(path) => format!("name:{path}"),
            Self::Id(id) => format!("created_at:{id}"),
            Self::Term(term, id) => format!("found:{id}:{term}"),
        }
    }

    /// The position after which an answer in this order goes on.
    fn read(text: &str, sought: &Sought) -> Result<Self> {
        let read = match text.split_once(':') {
            _ if text.contains('\0') => None,
            Some(("found", rest)) if !sought.search.is_empty() => {
                rest.split_once(':').map(|(id, term)| Self::Term(term.to_owned(), id.to_owned()))
            }
            Some(("created_at", id)) if sought.search.is_empty() && sought.order == Order::Newest => {
                Some(Self::Id(id.to_owned()))
            }
            Some(("name", path)) if sought.search.is_empty() && sought.order != Order::Newest => {
                Some(Self::Path(path.to_owned()))
            }
            _ => None,
        };
        read.ok_or_else(no_position)
    }
}

impl Metadata {
    /// A page of namespaces by name; without `readable` of all of them.
    pub(crate) async fn namespaces(
        &self,
        instance: InstanceId,
        readable: Option<Readable>,
        search: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Namespace>> {
        let (first, end) = if search.is_empty() {
            (String::new(), LAST.to_owned())
        } else {
            let search = search.to_lowercase();
            // What is no beginning of a name finds nothing.
            let end = terms::after_all(&search).filter(|_| search.is_ascii() && !search.contains('\0'));
            let Some(end) = end else { return Ok(Vec::new()) };
            (search, end)
        };
        let first = first.max(after.to_owned());
        let mut values = args![instance.to_string(), first, end, after, i64::from(limit)];
        let statement = match readable {
            Some(readable) if !readable.everything => {
                values.push(readable.namespaces.into());
                values.push(readable.repositories.into());
                &lists::GRANTED_NAMESPACES
            }
            _ => &lists::NAMESPACES,
        };
        self.database.read_all(statement, values).await?.iter().map(managed::namespace::read).collect()
    }

    /// A page of repositories, and where the next one begins.
    pub(crate) async fn repository_entries(
        &self,
        instance: InstanceId,
        sought: Sought,
    ) -> Result<(Vec<ManagedRepository>, Option<String>)> {
        let id = instance.to_string();
        let namespace = match sought.namespace.as_str() {
            "" => None,
            name if name.parse::<RepositoryName>().is_err() => return Ok((Vec::new(), None)),
            name => match self.database.read_optional(&sql::NAMESPACE, args![&id, name]).await? {
                Some(row) => Some(row.get::<String>(0)?),
                None => return Ok((Vec::new(), None)),
            },
        };
        let position = match sought.after.as_str() {
            "" => None,
            text => Some(Position::read(text, &sought)?),
        };
        let searched = !sought.search.is_empty();
        let (first, end) = match terms::range(&sought.search) {
            Some(range) => range,
            None if searched => return Ok((Vec::new(), None)),
            None => (String::new(), LAST.to_owned()),
        };
        if searched && sought.order != Order::Any {
            let message = "what a search finds is ordered by what was found; leave out the order";
            return Err(Error::new(ErrorCode::RequestInvalid, message));
        }
        let newest = sought.order == Order::Newest;
        let (after, of) = match position {
            Some(Position::Path(path)) => (path, String::new()),
            Some(Position::Id(id)) => (id, String::new()),
            Some(Position::Term(term, id)) => (term, id),
            None if newest => (LAST.to_owned(), String::new()),
            None => (first.clone(), String::new()),
        };
        let limit = page_size(sought.limit);
        let mut values = args![&id, after, i64::from(limit) + 1];
        values.extend(Places::of(&sought, &id, namespace.as_deref()).into_args());
        values.push(namespace.unwrap_or_default().into());
        let statement = if searched {
            values.extend(args![of, first, end]);
            &lists::FOUND_REPOSITORIES
        } else if newest {
            &lists::NEWEST_REPOSITORIES
        } else {
            &lists::REPOSITORIES_BY_PATH
        };
        let rows = self.database.read_all(statement, values).await?;
        let more = rows.len() > limit as usize;
        let shown = &rows[..rows.len().min(limit as usize)];
        let position = |row: &Row| -> Result<String> {
            let position = if searched {
                Position::Term(row.get(12)?, row.get(0)?)
            } else if newest {
                Position::Id(row.get(0)?)
            } else {
                Position::Path(row.get(2)?)
            };
            Ok(position.text())
        };
        let next = shown.last().filter(|_| more).map(position).transpose()?;
        Ok((shown.iter().map(managed::repository::read).collect::<Result<_>>()?, next))
    }
}
