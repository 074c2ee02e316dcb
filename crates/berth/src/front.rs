//! What the public listener serves: the registry, and below `/api` the REST API.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use berth_gateway::Gateway;
use berth_management_api::ManagementApi;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tower::Service;

/// The public roles of this process.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    pub(crate) gateway: Option<Gateway>,
    pub(crate) management: Option<ManagementApi>,
}

/// An answer of one of them.
pub(crate) enum Answering {
    Gateway(<Gateway as Service<Request<Incoming>>>::Future),
    Management(Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>),
    Nobody,
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Gateway(answering) => Pin::new(answering).poll(context),
            Self::Management(answering) => answering.as_mut().poll(context),
            Self::Nobody => {
                let mut response = Response::new(Body::from("this process does not serve that\n"));
                *response.status_mut() = StatusCode::NOT_FOUND;
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let of_api = ManagementApi::serves(request.uri().path());
        match (&mut self.gateway, &mut self.management) {
            (_, Some(management)) if of_api => Answering::Management(management.call(request)),
            (Some(gateway), _) => Answering::Gateway(gateway.call(request)),
            _ => Answering::Nobody,
        }
    }
}
