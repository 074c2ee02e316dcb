//! An operation: one method of one path, who may call it, and its page in the document. The same declaration makes the
//! route, so that none is without an authorisation or without documentation.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Router,
    routing::{MethodFilter, on},
};
use berth_model::Permission;
use http::{Method, Response};
use serde_json::{Map, Value};

use crate::{
    answer::{Answer, Body, Schemas},
    call::{Call, Parts},
    document,
    input::{Input, Sent},
    problem::Result,
    serve,
};

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Everybody.
    Open,
    /// Whoever has shown a credential; of an instance: whoever may know that it exists. A list shows what the caller may
    /// see.
    Known,
    /// Whoever has the permission at the place in the path.
    Needs(Permission),
    /// Whoever has the permission in the whole deployment, and may know of the instance in the path.
    NeedsInDeployment(Permission),
    /// Whoever has the permission where the body says; the handler asks.
    NeedsWhereBodySays(Permission),
    /// Whoever has the permission in the instance, or where the query or what the path names is; the handler asks.
    NeedsSomewhere(Permission),
}

/// The declaration.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Below `/api/v1`.
    pub(crate) path: &'static str,
    /// Noun and verb: `namespaces.create`.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) rule: Rule,
    /// It takes If-Match.
    pub(crate) conditional: bool,
    /// It takes Idempotency-Key.
    pub(crate) repeatable: bool,
}

impl Operation {
    fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        let (conditional, repeatable) = (false, false);
        Self { method, path, id, summary, description: "", rule, conditional, repeatable }
    }

    pub(crate) fn get(path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        Self::new(Method::GET, path, id, summary, rule)
    }

    pub(crate) fn post(path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        Self::new(Method::POST, path, id, summary, rule)
    }

    pub(crate) fn put(path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        Self::new(Method::PUT, path, id, summary, rule)
    }

    pub(crate) fn patch(path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        Self::new(Method::PATCH, path, id, summary, rule)
    }

    pub(crate) fn delete(path: &'static str, id: &'static str, summary: &'static str, rule: Rule) -> Self {
        Self::new(Method::DELETE, path, id, summary, rule)
    }

    /// More than the summary says.
    pub(crate) fn describe(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// It takes If-Match.
    pub(crate) fn conditional(self) -> Self {
        Self { conditional: true, ..self }
    }

    /// It takes Idempotency-Key.
    pub(crate) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send>>;

/// A handler behind the reading of its input.
pub(crate) type Run = Arc<dyn Fn(Call, Sent) -> Answering + Send + Sync>;

/// The operations, while they are put together.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) router: Router<Arc<Parts>>,
    pub(crate) schemas: Schemas,
    /// The document's operations: path, method, what is said.
    pub(crate) paths: Map<String, Value>,
}

impl Routes {
    /// Adds an operation.
    pub(crate) fn add<I, A, F, Fut>(&mut self, operation: Operation, handler: F)
    where
        I: Input,
        A: Answer,
        F: Fn(Call, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A>> + Send + 'static,
    {
        let (input, answer) = (I::describe(&mut self.schemas), A::describe(&mut self.schemas));
        let page = document::operation(&operation, input, answer);
        let methods = self.paths.entry(operation.path).or_insert_with(|| Value::Object(Map::new()));
        methods[operation.method.as_str().to_ascii_lowercase()] = page;
        let run: Run = Arc::new(move |call, sent| match I::read(sent) {
            Ok(input) => {
                let answering = handler(call, input);
                Box::pin(async move { Ok(answering.await?.respond()) })
            }
            Err(refused) => Box::pin(async move { Err(refused) }),
        });
        let path = operation.path;
        // Every method of the constructors above is one that a route can have.
        let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
        let operation = Arc::new(operation);
        let route = on(filter, move |state, request| serve::call(state, operation, run, request));
        self.router = std::mem::take(&mut self.router).route(path, route);
    }
}
