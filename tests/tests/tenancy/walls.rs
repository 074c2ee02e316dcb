//! T34 between tenants: what is another's does not exist.

use berth_testkit::{Client, Content, Reply};
use reqwest::Method;

use crate::{Base, Tenant, in_every_tenancy, until};

/// What a client can tell two answers apart by: status, headers but those that differ from any answer to any other, and
/// the body.
fn shape(reply: &Reply) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<(String, String)> = reply
        .headers
        .iter()
        .filter(|(name, _)| {
            !["date", "x-request-id", "location", "docker-upload-uuid"].contains(&name.as_str())
        })
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (reply.status, headers, String::from_utf8_lossy(&reply.body).into_owned())
}

/// Every read, delete and mount of a repository.
fn targets(digest: &str, blob: &str) -> Vec<(Method, String)> {
    let mut targets = Vec::new();
    for path in [
        "tags/list".to_owned(),
        "manifests/v1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{blob}"),
        format!("referrers/{digest}"),
    ] {
        targets.push((Method::GET, path.clone()));
        targets.push((Method::HEAD, path));
    }
    targets.push((Method::DELETE, "manifests/v1".to_owned()));
    targets.push((Method::DELETE, format!("manifests/{digest}")));
    targets.push((Method::DELETE, format!("blobs/{blob}")));
    targets.push((Method::POST, format!("blobs/uploads/?mount={blob}&from=team/app")));
    targets.push((Method::POST, format!("blobs/uploads/?mount={blob}")));
    targets
}

async fn ask(client: &Client, repository: &str, method: &Method, target: &str) -> Reply {
    client.repository(repository).call(method.clone(), target).await.unwrap().send().await.unwrap()
}

in_every_tenancy! {
    async fn t34_what_is_another_tenants_does_not_exist(deployment: &'static Deployment) {
        let acme = Tenant::new(deployment, "wall-acme", "basic").await;
        let globex = Tenant::new(deployment, "wall-globex", "basic").await;
        let mut content = Content::named("wall");
        let (image, absent) = (content.image(1, 100), content.image(1, 100));
        acme.owner().repository("team/app").push_image("v1", &image).await.unwrap();
        // The neighbour has a repository of the same name, with other content, and every right in its own instance.
        let own = content.image(1, 100);
        globex.owner().repository("team/app").push_image("own", &own).await.unwrap();
        let nobody = globex.anonymous();
        let (digest, blob) = (image.manifest.digest.to_string(), image.layers[0].digest.to_string());
        let (no_digest, no_blob) = (absent.manifest.digest.to_string(), absent.layers[0].digest.to_string());
        let pairs = targets(&digest, &blob).into_iter().zip(targets(&no_digest, &no_blob));
        for ((method, there), (_, not)) in pairs {
            for client in [&globex.owner(), &nobody] {
                for repository in ["team/app", "team/other", "none/app"] {
                    let theirs = shape(&ask(client, repository, &method, &there).await);
                    let nothing = shape(&ask(client, repository, &method, &not).await);
                    let named = |(status, headers, body): (u16, Vec<(String, String)>, String)| {
                        (status, headers, body.replace(&digest, &no_digest).replace(&blob, &no_blob))
                    };
                    assert_eq!(named(theirs), nothing, "{method} {repository} {there}");
                }
            }
        }
        // What the owner has is all there, and the neighbour's is its own.
        acme.owner().repository("team/app").pull_image("v1", &image).await.unwrap();
        let catalog = globex.owner().catalog("").await.unwrap().json();
        assert!(!catalog["repositories"].to_string().contains("wall-acme"));
        assert_eq!(globex.owner().repository("team/app").tags().await.unwrap(), ["own"]);
    }

    async fn t35_a_token_opens_nothing_at_another_tenants_host(deployment: &'static Deployment) {
        let acme = Tenant::new(deployment, "aud-acme", "basic").await;
        let globex = Tenant::new(deployment, "aud-globex", "basic").await;
        let mut content = Content::named("aud");
        let image = content.image(1, 100);
        for tenant in [&acme, &globex] {
            tenant.owner().repository("team/app").push_image("v1", &image).await.unwrap();
        }
        let token = acme.owner().repository("team/app").token().await.unwrap();
        let at = async |client: Client, token: &str| {
            let call = client.call(Method::GET, "/v2/team/app/manifests/v1").bearer(token);
            call.send().await.unwrap()
        };
        assert_eq!(at(acme.anonymous(), &token).await.status, 200);
        let refused = at(globex.anonymous(), &token).await;
        assert_eq!(refused.status, 401);
        assert_eq!(shape(&refused), shape(&at(globex.anonymous(), "nonsense").await));
        let default = deployment.client_at(crate::DOMAIN);
        assert_eq!(at(default.clone(), &token).await.status, 401);
        // Nor do names and passwords: one person of that name at each.
        acme.user("alice", "reader").await;
        let stranger = globex.anonymous().with_credentials("alice", "the password");
        assert_eq!(stranger.token_reply(&[]).await.unwrap().status, 401);
        let unknown = globex.anonymous().with_credentials("nobody", "the password");
        assert_eq!(shape(&stranger.token_reply(&[]).await.unwrap()), shape(&unknown.token_reply(&[]).await.unwrap()));
        let admin = default.with_credentials(berth_testkit::ADMIN, berth_testkit::PASSWORD);
        assert_eq!(admin.token_reply(&[]).await.unwrap().status, 200);
        let elsewhere = acme.anonymous().with_credentials(berth_testkit::ADMIN, berth_testkit::PASSWORD);
        assert_eq!(elsewhere.token_reply(&[]).await.unwrap().status, 401);
    }

    async fn a_host_that_is_nobodys_is_misdirected(deployment: &'static Deployment) {
        for host in ["none-registry.eu-central-1.berth.test", "other.test", "xberth.test", "a.berth.test"] {
            let reply = deployment.client_at(host).call(Method::GET, "/v2/").send().await.unwrap();
            assert_eq!((reply.status, reply.error_code().as_deref()), (421, Some("MISDIRECTED")), "{host}");
        }
        for host in ["berth.test", "BERTH.TEST"] {
            assert_eq!(deployment.client_at(host).call_base().await, 401, "{host}");
        }
    }

    async fn a_stopped_instance_serves_nobody_and_loses_nothing(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "stop-acme", "basic").await;
        let mut content = Content::named("stop");
        let image = content.image(1, 100);
        let owner = tenant.owner();
        owner.repository("team/app").push_image("v1", &image).await.unwrap();
        tenant.admin(&["stop-instance", "stop-acme"]).await;
        let refused = async || {
            let reply = owner.repository("team/app").manifest("v1").await.unwrap();
            (reply.status, reply.error_code())
        };
        for _ in deployment.processes() {
            until("it is stopped", async || refused().await == (403, Some("DENIED".into()))).await;
        }
        assert_eq!(deployment.client_at(crate::DOMAIN).call_base().await, 401, "the neighbours go on");
        tenant.admin(&["start-instance", "stop-acme"]).await;
        for _ in deployment.processes() {
            until("it is served", async || tenant.anonymous().call_base().await == 401).await;
        }
        // Tokens from before are refused, and a new one is had.
        tenant.owner().repository("team/app").pull_image("v1", &image).await.unwrap();
    }
}

in_every_tenancy! {
    async fn a_deleted_repository_is_gone_for_every_token_and_its_successor_is_empty(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "remove-acme", "basic").await;
        let mut content = Content::named("remove");
        let (first, second) = (content.image(1, 100), content.image(1, 100));
        let old = tenant.owner().repository("team/app");
        old.push_image("v1", &first).await.unwrap();
        // Issued now that the repository is there, and so for it alone.
        let token = tenant.owner().repository("team/app").token().await.unwrap();
        let with_old = async |target: &str| {
            let target = format!("/v2/team/app/{target}");
            tenant.anonymous().call(Method::GET, target).bearer(token.as_str()).send().await.unwrap().status
        };
        assert_eq!(with_old("manifests/v1").await, 200);
        tenant.admin(&["delete-repository", "team/app"]).await;
        let digest = format!("manifests/{}", first.manifest.digest);
        let blob = format!("blobs/{}", first.layers[0].digest);
        for target in ["manifests/v1", &digest, &blob, "tags/list"] {
            assert_eq!(with_old(target).await, 401, "{target}");
            assert_eq!(ask(&tenant.owner(), "team/app", &Method::GET, target).await.status, 404, "{target}");
        }
        tenant.owner().repository("team/app").push_image("v2", &second).await.unwrap();
        for target in ["manifests/v1", &digest, &blob, "manifests/v2"] {
            assert_eq!(with_old(target).await, 401, "{target}");
        }
        let new = tenant.owner().repository("team/app");
        assert_eq!(new.tags().await.unwrap(), ["v2"]);
        assert_eq!(new.get(&digest).await.unwrap().status, 404);
        assert!(!new.has_blob(&first.layers[0].digest).await.unwrap());
        new.pull_image("v2", &second).await.unwrap();
    }

    async fn tags_stay_where_a_repository_says_so(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "still-acme", "basic").await;
        tenant.admin(&["create-namespace", "team", "--default-immutable", "true"]).await;
        let mut content = Content::named("still");
        let (first, second) = (content.image(1, 100), content.image(1, 100));
        let app = tenant.owner().repository("team/app");
        app.push_image("v1", &first).await.unwrap();
        app.push_image("latest", &first).await.unwrap();
        app.push_image("v2", &second).await.unwrap();
        let refused = app.put_manifest("v1", &second.manifest).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (409, Some("DENIED")));
        app.put_manifest("latest", &second.manifest).await.unwrap().expect(201).unwrap();
        app.pull_image("v1", &first).await.unwrap();
        tenant.admin(&["set-repository", "team/app", "--immutable-tags", "false"]).await;
        app.put_manifest("v1", &second.manifest).await.unwrap().expect(201).unwrap();
    }
}
