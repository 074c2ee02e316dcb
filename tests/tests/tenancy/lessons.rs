//! What other registries learned the hard way about identity; each with its number. More of them are where the thing is
//! tested anyway.

use berth_testkit::{ADMIN, Content};
use reqwest::Method;

use crate::{Tenant, in_every_tenancy};

in_every_tenancy! {
    async fn cve_2020_29662_no_spelling_of_a_path_is_open(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "lesson-paths", "basic").await;
        tenant.owner().repository("team/app").push_image("v1", &Content::named("paths").image(1, 10)).await.unwrap();
        for target in [
            "/v2/_catalog", "/v2//_catalog", "/v2/_catalog/", "//v2/_catalog", "/v2/%5Fcatalog", "/v2/./_catalog",
            "/V2/_catalog", "/v2/_catalog?n=5", "/v2/x/../_catalog", "/v2/team/app/tags/list/", "/v2/team%2Fapp/tags/list",
            "/v2/team//app/tags/list", "/v2/team/app/tags/list%00", "/v2/team/app/./tags/list",
        ] {
            let reply = tenant.anonymous().call(Method::GET, target).send().await.unwrap();
            assert!((400..500).contains(&reply.status), "{target}: {}", reply.status);
            assert!(!String::from_utf8_lossy(&reply.body).contains("\"v1\""), "{target}");
            assert!(!String::from_utf8_lossy(&reply.body).contains("repositories\":"), "{target}");
        }
    }

    async fn cve_2026_4404_no_password_is_a_default(deployment: &'static Deployment) {
        let default = deployment.client_at(crate::DOMAIN);
        for password in ["", "admin", "password", "Harbor12345", "berth"] {
            let tried = default.clone().with_credentials(ADMIN, password).token_reply(&[]).await.unwrap();
            assert!([401, 429].contains(&tried.status), "{password:?}: {}", tried.status);
        }
    }

    async fn cve_2025_68941_every_way_in_gives_the_same_rights(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "lesson-ways", "basic").await;
        tenant.owner().repository("team/app").push_image("v1", &Content::named("ways").image(1, 10)).await.unwrap();
        let reader = tenant.user("reader", "reader").await;
        let asked = "repository:team/app:pull,push,delete";
        let granted = |reply: berth_testkit::Reply| reply.expect(200).unwrap().json()["scope"].clone();
        let form = async |fields: &str| {
            let call = tenant.anonymous().call(Method::POST, "/token");
            let call = call.header("content-type", "application/x-www-form-urlencoded");
            call.body(format!("{fields}&service={}&scope={asked}&client_id=test", tenant.name)).send().await.unwrap()
        };
        let by_query = granted(reader.token_reply(&[asked]).await.unwrap());
        assert_eq!(by_query, "repository:team/app:pull");
        let login = "username=reader&password=the%20password";
        let offline = form(&format!("grant_type=password&access_type=offline&{login}")).await.expect(200).unwrap();
        let refresh = offline.json()["refresh_token"].as_str().unwrap().to_owned();
        assert_eq!(granted(offline), by_query);
        let renewed = form(&format!("grant_type=refresh_token&refresh_token={refresh}")).await;
        assert_eq!(granted(renewed), by_query);
        // And none of it opens anything for somebody who was shut out since.
        tenant.admin(&["disable", "reader"]).await;
        assert_eq!(reader.token_reply(&[asked]).await.unwrap().status, 401);
        let renewed = form(&format!("grant_type=refresh_token&refresh_token={refresh}")).await;
        assert_eq!(renewed.status, 401);
    }
}
